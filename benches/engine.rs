//! What planning and the engine cost a request, without disks and without payload.
//!
//! `plan` is one call of the planner for one band. `engine` is a request from its submission to its reply over
//! a port that completes everything at once and moves no bytes, in batches of 32, for 4 to 64 members; what is
//! left out is the queue's own (its buffers, its disks). `locks` is what a queue meets of others: as many
//! queues, simulated on one thread, each with 32 random blocks locked.
//! Run it on an idle machine: `cargo bench --bench engine`, or a part of it: `cargo bench --bench engine -- plan`.
#![allow(
    clippy::print_stderr,
    reason = "how often queues meet is no time, and criterion has no place for it"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use uraid::engine::{
    Bytes, Engine, Holder, Keep, Limits, Log, Note, Port, QueueId, Request, RowLocks, Shared,
};
use uraid::format::ppl::Entry;
use uraid::geometry::{Geometry, Layout, Shape, has_chunk};
use uraid::plan::{Piece, Plan, Rows, View, Want, plan};
use uraid::units::{Lba, Level, MemberLba, Sectors, Slot, Stripe};

/// Sectors of a member that are used: 1 GiB.
const COMPONENT: Sectors = Sectors(2 << 20);

const BATCH: usize = 32;

fn geometry(level: Level, slots: u16) -> Geometry {
    let layout = Layout::default_for(level).md_number();
    let chunk = if has_chunk(level) { Sectors(128) } else { Sectors(0) };
    let members = vec![COMPONENT; usize::from(slots)];
    let shape = Shape { level, layout, chunk, slots, component: COMPONENT, members: &members };
    Geometry::new(&shape).expect("a shape that can be")
}

/// Everything is done as soon as it is asked for.
struct Instant {
    done: Vec<u64>,
    view: Arc<View>,
}

impl Port for Instant {
    fn read(&mut self, tag: u64, _: Slot, _: MemberLba, _: Bytes) {
        self.done.push(tag);
    }
    fn write(&mut self, tag: u64, slot: Slot, _: MemberLba, _: Bytes, _: bool) -> Holder {
        self.done.push(tag);
        self.holder(slot)
    }
    fn zero(&mut self, tag: u64, slot: Slot, _: MemberLba, _: Sectors) -> Holder {
        self.done.push(tag);
        self.holder(slot)
    }
    fn prefers_fua(&self, _: Slot) -> bool {
        true
    }
    fn flush(&mut self, tag: u64, slot: Slot) -> Holder {
        self.done.push(tag);
        self.holder(slot)
    }
    fn holder(&self, slot: Slot) -> Holder {
        Holder(slot.0.into())
    }
    fn fold(&mut self, _: &[Bytes], terms: &mut dyn Iterator<Item = (Bytes, [u8; 2])>, _: bool) {
        for term in terms {
            black_box(term);
        }
    }
    fn copy(&mut self, _: Bytes, _: Bytes) {}
    fn alloc(&mut self, _: u32) -> Option<u32> {
        Some(0)
    }
    fn free(&mut self, _: u32) {}
    fn log<R>(&mut self, _: impl FnOnce(&mut Log) -> R) -> Option<R> {
        None
    }
    fn log_join(
        &mut self,
        _: QueueId,
        _: Slot,
        _: &mut dyn ExactSizeIterator<Item = (Entry, Option<Bytes>)>,
        _: u32,
    ) -> Option<u64> {
        None
    }
    fn log_write(&mut self, _: u64, _: Slot, _: Option<u64>) -> Option<Holder> {
        None
    }
    fn view(&mut self) -> Arc<View> {
        self.view.clone()
    }
    fn wake_others(&mut self) {}
    fn ask_dirty(&mut self) {}
    fn member_failed(&mut self, _: Slot, _: Holder) {}
    fn record(&mut self, _: Note) {}
    fn read_failed(&mut self, _: Slot, _: MemberLba, _: Sectors) {}
}

/// An engine and its world.
struct Rig {
    engine: Engine,
    port: Instant,
    size: u64,
    state: u64,
}

impl Rig {
    fn new(level: Level, slots: u16) -> Rig {
        let geometry = Arc::new(geometry(level, slots));
        let shared = Arc::new(Shared::new(&geometry, 1, 0));
        // As if the superblocks said so already.
        shared.set_dirty();
        let view = Arc::new(View::healthy(slots));
        let queue = shared.join().expect("the first queue");
        let limits = Limits {
            requests: BATCH,
            bands: 64,
            band_rows: 128,
            block: 8,
            read_only: false,
            unsummed: u64::MAX,
        };
        let size = geometry.size().0;
        let engine = Engine::new(geometry, shared, queue, view.clone(), limits);
        Rig { engine, port: Instant { done: Vec::with_capacity(1024), view }, size, state: 1 }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % n
    }

    /// A batch of requests of `sectors`, from submission to the last reply.
    fn batch(&mut self, write: bool, random: bool, sectors: u64) {
        let places = self.size / sectors;
        let start = self.below(places - BATCH as u64);
        for n in 0..BATCH {
            let place = if random { self.below(places) } else { start + n as u64 };
            let memory = Bytes { region: n as u32, offset: 0, len: (sectors * 512) as u32 };
            let (lba, sectors) = (Lba(place * sectors), Sectors(sectors));
            let request = match write {
                true => Request::Write { lba, sectors, memory, fua: false, keep: Keep::default() },
                false => Request::Read { lba, sectors, memory },
            };
            assert!(self.engine.submit(n as u64, request).is_ok(), "there is room for a batch");
        }
        let mut replies = 0;
        while replies < BATCH {
            self.engine.run(&mut self.port);
            while let Some(tag) = self.port.done.pop() {
                self.engine.complete(tag, true, &mut self.port);
            }
            while let Some(reply) = self.engine.reply() {
                assert!(reply.result.is_ok());
                replies += 1;
            }
        }
    }
}

fn engine(criterion: &mut Criterion) {
    for (name, write, random) in
        [("read 4K", false, true), ("write 4K", true, true), ("write 4K in order", true, false)]
    {
        let mut group = criterion.benchmark_group(format!("engine, {name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for (level, slots) in [
            (Level::Raid0, 4),
            (Level::Raid1, 2),
            (Level::Raid10, 4),
            (Level::Raid5, 4),
            (Level::Raid5, 16),
            (Level::Raid5, 64),
            (Level::Raid6, 8),
        ] {
            let mut rig = Rig::new(level, slots);
            group.bench_function(format!("{level} of {slots}"), |bencher| {
                bencher.iter(|| rig.batch(write, random, 8));
            });
        }
        group.finish();
    }
}

fn planner(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    for (level, slots) in [(Level::Raid10, 4), (Level::Raid5, 4), (Level::Raid5, 16), (Level::Raid6, 8)] {
        let geometry = geometry(level, slots);
        let mut out = Plan::with_room_for(usize::from(geometry.cells()));
        let healthy = View::healthy(slots);
        let mut degraded = healthy.clone();
        degraded.members[0].presence = uraid::plan::Presence::Missing;
        let whole: Vec<Piece> =
            (0..geometry.data_cells()).map(|data| Piece { data, rows: Rows::new(0, 128) }).collect();
        let block = [Piece { data: 0, rows: Rows::new(8, 16) }];
        for (what, view, want) in [
            ("read 4K", &healthy, Want::Read(&block)),
            ("read 4K degraded", &degraded, Want::Read(&block)),
            ("write 4K", &healthy, Want::Write(&block)),
            ("write 4K degraded", &degraded, Want::Write(&block)),
            ("write a stripe", &healthy, Want::Write(&whole)),
        ] {
            let mut stripe = 0;
            group.bench_function(format!("{level} of {slots}, {what}"), |bencher| {
                bencher.iter(|| {
                    stripe = (stripe + 1) % 1000;
                    let map = geometry.stripe(Stripe(stripe));
                    plan(&map, view, &[], 0, black_box(want), &mut out).expect("nothing is lost");
                    black_box(out.scatter.len())
                });
            });
        }
    }
    group.finish();
}

/// A lock taken and given back while the other queues hold 32 random blocks each of 1 TiB. How often it was not
/// to be had is printed: that is what queues cost each other.
fn locks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("locks");
    for queues in [1u64, 2, 8, 64] {
        let locks = RowLocks::new(128);
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let row = (state >> 40) as u32 % 16 * 8;
            (Stripe((state >> 20) % (1 << 24)), Rows::new(row, row + 8))
        };
        for _ in 0..(queues - 1) * BATCH as u64 {
            let (stripe, rows) = next();
            // (Two of the others may meet, too: then one waits.)
            let _ = locks.try_lock(stripe, locks.mask(rows));
        }
        let (mut tried, mut refused) = (0u64, 0u64);
        group.bench_function(format!("{queues} queues"), |bencher| {
            bencher.iter(|| {
                let (stripe, rows) = next();
                let mask = locks.mask(rows);
                tried += 1;
                match locks.try_lock(stripe, mask) {
                    true => black_box(locks.unlock(stripe, mask)),
                    false => {
                        refused += 1;
                        false
                    }
                }
            });
        });
        if tried > 0 {
            let percent = 100.0 * refused as f64 / tried as f64;
            eprintln!("locks/{queues} queues: {percent:.2} % of {tried} not to be had at once");
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = engine, planner, locks
}
criterion_main!(benches);
