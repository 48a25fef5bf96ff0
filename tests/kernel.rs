//! The real md driver as the oracle: what it makes we read, what we make it assembles, scrubs and reads back.
//!
//! Each test boots a guest (three to five seconds) and runs many cases in it. First the rig itself is put to
//! the test: a rig that cannot fail proves nothing.

#[path = "common/loopdev.rs"]
mod loopdev;
#[path = "common/uml.rs"]
mod uml;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use loopdev::LoopDevice;
use uml::{Guest, OUT_OF_TIME};

const MIB: u64 = 1 << 20;

/// `count` sparse images of `bytes` bytes in `folder`.
fn images(folder: &Path, count: usize, bytes: u64) -> Vec<PathBuf> {
    let image = |n| {
        let path = folder.join(format!("disk{n}.img"));
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("an image file");
        path
    };
    (0..count).map(image).collect()
}

fn guest_with(images: &[PathBuf]) -> Guest {
    images.iter().fold(Guest::new(), Guest::disk)
}

/// What the host's mdadm reads from the superblock of `image`.
fn examine(image: &Path) -> String {
    let output = Command::new("mdadm")
        .arg("--examine")
        .arg(image)
        .output()
        .unwrap_or_else(|error| panic!("cannot run mdadm (package mdadm): {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// ---- the rig itself ---------------------------------------------------------------------------------------

#[test]
fn words_status_and_files_come_back_and_the_host_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, private) = (folder.path().join("shared"), folder.path().join("private"));
    fs::create_dir(&shared).unwrap();
    fs::create_dir(&private).unwrap();
    let script = format!(
        "echo to stdout; echo to stderr >/dev/stderr; echo $DISKS
         echo kept >{}/file; echo lost >{}/file; exit 3",
        shared.display(),
        private.display()
    );
    let output = guest_with(&images(folder.path(), 2, MIB)).writable(&shared).run(&script);
    assert_eq!((output.status, &*output.stderr), (3, "to stderr\n"));
    assert_eq!(output.stdout, "to stdout\n/dev/ubda /dev/ubdb\n");
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "kept\n");
    assert!(!private.join("file").exists());
}

#[test]
fn a_guest_out_of_time_is_ended_and_what_it_said_is_kept() {
    let output = Guest::new().seconds(8).run("echo before; sleep 1000");
    assert_eq!((output.status, &*output.stdout), (OUT_OF_TIME, "before\n"));
}

/// A scrub is the judge of most tests to come: it must find one changed byte, and nothing before it was
/// changed.
#[test]
fn a_raid5_made_by_the_kernel_reads_back_and_a_scrub_finds_one_wrong_byte() {
    let folder = tempfile::tempdir().unwrap();
    let disks = images(folder.path(), 3, 64 * MIB);
    let output = guest_with(&disks)
        .run(
            "create /dev/md0 --level=5 --raid-devices=3 --chunk=64 $DISKS
             fill /dev/md0 16; content /dev/md0; stop /dev/md0
             assemble /dev/md0 $DISKS; scrub /dev/md0; content /dev/md0; stop /dev/md0
             printf X | dd of=/dev/ubdb bs=1M seek=40 conv=notrunc,fsync status=none
             assemble /dev/md0 $DISKS; scrub /dev/md0 || true; stop /dev/md0",
        )
        .success();
    let [clean, wrong] = output.values("mismatch_cnt")[..] else { panic!("{}", output.stdout) };
    let [written, read] = output.values("md5")[..] else { panic!("{}", output.stdout) };
    assert_eq!(clean, "0");
    assert_eq!(wrong, "8", "one page of 8 sectors differs");
    assert_eq!(written, read);
    for disk in &disks {
        let superblock = examine(disk);
        assert!(superblock.contains("Raid Level : raid5"), "{superblock}");
        assert!(superblock.contains("State : clean"), "{superblock}");
    }
}

/// Loop devices inside: as many arrays in one guest as a test needs.
#[test]
fn many_arrays_of_all_levels_fit_into_one_guest() {
    let folder = tempfile::tempdir().unwrap();
    images(folder.path(), 20, 16 * MIB);
    let script = format!(
        "loops=$(attach {}/disk{{0..19}}.img); set -- $loops
         for case in linear/2 0/2 1/2 4/3 5/3 6/4 10/4; do
             level=${{case%/*}} count=${{case#*/}}
             create /dev/md1 --level=$level --raid-devices=$count --data-offset=1M ${{@:1:count}}
             fill /dev/md1; content /dev/md1
             case $level in linear|0) ;; *) scrub /dev/md1 ;; esac
             stop /dev/md1
             assemble /dev/md1 ${{@:1:count}}; content /dev/md1; stop /dev/md1
             shift $count
         done; detach $loops",
        folder.path().display()
    );
    let output = Guest::new().writable(folder.path()).run(&script).success();
    assert_eq!(output.values("mismatch_cnt"), ["0"; 5]);
    let sums = output.values("md5");
    assert_eq!(sums.len(), 14);
    for pair in sums.chunks(2) {
        assert_eq!(pair[0], pair[1], "{}", output.stdout);
    }
    assert!(
        examine(&folder.path().join("disk0.img")).contains("Raid Level : linear"),
        "the images were written"
    );
}

/// Crash tests rest on this: an array cut off in the middle of writing is dirty, and what was synced is
/// there.
#[test]
fn a_pulled_plug_leaves_a_dirty_array_that_holds_what_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    let disks = images(folder.path(), 2, 16 * MIB);
    guest_with(&disks)
        .pull_the_plug()
        .run(
            "create /dev/md0 --level=1 --raid-devices=2 --bitmap=none $DISKS
             fill /dev/md0
             echo 1000 >/sys/block/md0/md/safe_mode_delay
             printf X | dd of=/dev/md0 bs=512 conv=fsync,notrunc status=none",
        )
        .success();
    assert!(examine(&disks[0]).contains("State : active"), "{}", examine(&disks[0]));
    let after = guest_with(&disks)
        .run(
            "assemble /dev/md0 $DISKS; dmesg | grep -o 'not clean -- starting background reconstruction'
             scrub /dev/md0; head -c 1 /dev/md0; echo; stop /dev/md0",
        )
        .success();
    assert_eq!(after.stdout, "not clean -- starting background reconstruction\nmismatch_cnt 0\nX\n");
}

#[test]
fn a_loop_device_has_the_block_size_asked_for_and_goes_away() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = &images(folder.path(), 1, MIB)[0];
    for block_bytes in [512, 4096] {
        let device = LoopDevice::attach(image, block_bytes);
        fs::write(device.path(), [7; 4096]).unwrap();
        let path = device.path().to_owned();
        drop(device);
        assert_eq!(fs::read(image).unwrap()[..4096], [7; 4096]);
        let size = Path::new("/sys/block").join(path.file_name().unwrap()).join("size");
        assert!(
            fs::read_to_string(size).is_ok_and(|sectors| sectors.trim() == "0"),
            "{path:?} is still attached"
        );
    }
}

// ---- what the kernel makes, we read -----------------------------------------------------------------------
// (Tests that assemble the kernel's images with uraid go here.)

// ---- what we make, the kernel assembles, scrubs and reads back --------------------------------------------
// (Tests that hand uraid's images to the kernel go here.)
