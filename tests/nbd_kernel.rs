//! The kernel's own NBD client, in a guest: a file system on an LU that `uraid export` serves.
#![cfg(feature = "cli")]

#[path = "common/bench.rs"]
mod bench;
#[path = "common/uml.rs"]
mod uml;

use uml::Guest;

#[test]
fn the_kernel_mounts_what_is_served() {
    let bench = bench::Bench::empty();
    let folder = bench.path("").canonicalize().unwrap();
    let script = format!(
        "cd /run; export URAID_RUNTIME_DIR=/run/uraid
        {uraid} create data --level 5 ./d0 ./d1 ./d2 ./d3 --disk-size 64M
        {uraid} export ./d0 --nbd unix:/run/s >/run/uraid.out 2>/run/uraid.err & server=$!
        until [ -s /run/uraid.out ]; do kill -0 $server; sleep 0.5; done
        nbd-client -unix /run/s /dev/nbd0 -name data </dev/null
        mkfs.ext4 -q /dev/nbd0
        mount /dev/nbd0 /mnt
        for n in 1 2 3 4 5 6; do head -c 4000001 /dev/urandom >/mnt/$n; done
        (cd /mnt; md5sum ?) >/run/sums
        {uraid} fail data ./d1
        umount /mnt
        blockdev --flushbufs /dev/nbd0
        e2fsck -fn /dev/nbd0
        mount /dev/nbd0 /mnt; (cd /mnt; md5sum -c --quiet /run/sums); fstrim /mnt; umount /mnt
        nbd-client -d /dev/nbd0
        kill -TERM $server; wait $server; cat /run/uraid.err >&2
        cp --sparse=always d0 d1 d2 d3 {folder}; echo ended",
        folder = folder.display(),
        uraid = env!("CARGO_BIN_EXE_uraid"),
    );
    let output = Guest::new().modules("nbd").writable(&folder).seconds(60).run(&script);
    let told = format!("{}\n{}", output.stdout, output.stderr);
    assert!(output.status == 0 && output.stdout.trim_end().ends_with("ended"), "{}: {told}", output.status);
    let status = bench.status("./d0,./d2,./d3");
    assert_eq!((&status["state"], &status["dirty"]), (&"degraded".into(), &false.into()), "{status:#}");
}
