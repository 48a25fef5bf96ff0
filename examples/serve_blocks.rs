//! Where the author of a storage tool would start: an LU on four files, served through a queue with many requests in flight,
//! by buffers that travel with their requests. A disk is lost on the way.
//!
//! Run it with `cargo run --release --example serve_blocks`; it works in a temporary folder and leaves nothing behind.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use uraid::disk::AlignedBuf;
use uraid::units::Level;
use uraid::{Lu, Result};

/// Bytes in a request.
const BLOCK: usize = 64 << 10;
/// Requests in flight.
const DEPTH: usize = 32;
/// Requests in all.
const COUNT: u64 = 512;

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("uraid-example-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder for the disks");
    let result = serve(&folder);
    std::fs::remove_dir_all(&folder).expect("the folder is removed");
    result
}

fn serve(folder: &std::path::Path) -> Result<()> {
    let disks: Vec<_> = (0..4).map(|i| folder.join(format!("disk{i}.img"))).collect();
    let create = disks.iter().fold(Lu::create("example", Level::Raid5), |create, disk| create.disk(disk));
    let lu = create.disk_size(64 << 20).make()?;
    println!("{}: {} bytes in blocks of {}", lu.name(), lu.size(), lu.block_size());

    // A queue is driven by one thread at a time; every thread of a server would have its own.
    let mut queue = lu.queue(DEPTH)?;
    let mut buffers: Vec<AlignedBuf> = (0..DEPTH).map(|_| AlignedBuf::new(BLOCK)).collect();
    let (mut next, mut finished, mut done) = (0, 0, Vec::new());
    let mut failed = false;
    let start = Instant::now();
    while finished < COUNT {
        while let Some(mut buffer) = buffers.pop().filter(|_| next < COUNT) {
            buffer.fill(next as u8);
            queue.write(next, buffer, next * BLOCK as u64, false)?;
            next += 1;
        }
        if next >= COUNT / 2 && !failed {
            failed = true;
            lu.fail(&disks[1])?;
            println!("disk 1 is failed; {} more may fail", lu.status().redundancy_left);
        }
        queue.poll(&mut done, Some(Duration::from_secs(1)));
        for completion in done.drain(..) {
            completion.result?;
            buffers.extend(completion.buffer);
            finished += 1;
        }
    }
    lu.flush()?;
    println!("{} MiB written in {:.2?}", (COUNT * BLOCK as u64) >> 20, start.elapsed());

    // Blocking calls take any offset and length, from any thread.
    let mut bytes = vec![0; 3 * BLOCK];
    lu.read_at(&mut bytes, 100 * BLOCK as u64)?;
    assert!(bytes.chunks(BLOCK).zip(100u8..).all(|(block, value)| block.iter().all(|&b| b == value)));
    drop(queue);
    lu.stop()
}
