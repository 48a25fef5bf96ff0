//! How fast parity is computed, as a share of the rate at which the same place can be read.
//!
//! A rate is bytes of *sources* per second of CPU time on one core, in chunks of 64 KiB; of each row the median over rounds in
//! which all contenders take turns. "L2" works on one stripe again and again. "DRAM" walks over 1 GiB of stripes, each with
//! parity of its own; in "DRAM, past caches" it is stored around the caches; in "DRAM, kept" the parity of all goes to four places
//! in turn, as an LU's does (its memory for parity is used again and stays in the cache). The columns:
//!
//! - `read`: the same bytes by a loop that only reads; the faster of chunk after chunk and all chunks side by side;
//! - `pass`: all sources read, as many targets written as parity has, by a plain copy of the first source: what the bytes cost a
//!   memcpy;
//! - `portable`, and the set of this CPU with its ratios to `read` and to `pass`.
//!
//! `cargo bench --bench parity`, or some rows of it with `cargo bench --bench parity -- 'P+Q 8+2'`.
#![allow(clippy::print_stdout)]
#![allow(unsafe_code)]

use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};
use uraid::disk::buffers::AlignedBuf;
use uraid::disk::cpu;
use uraid::parity::{Kernels, Source, Target, gf};

/// Bytes in a chunk.
const CHUNK: usize = 64 << 10;

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    /// Bytes of data that no cache holds.
    large: usize,
    /// Bytes of sources folded at a time: a few milliseconds.
    turn: usize,
    /// How often each contender has its turn.
    rounds: usize,
}

const FULL: Scale = Scale { large: 1 << 30, turn: 128 << 20, rounds: 9 };

/// So that a test run sees every row work.
const TRIAL: Scale = Scale { large: 8 << 20, turn: 1 << 20, rounds: 1 };

/// The most sources a row has.
const SOURCES: usize = 8;

/// What to fold.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    /// P over all sources; or a lost chunk out of the others and P, which is the same sum.
    Xor,
    /// P and Q over all sources.
    PplusQ,
    /// P and Q brought up to date with the old and the new content of one chunk.
    Update,
    /// Two lost data chunks out of the other data chunks, P and Q: coefficients of all sorts.
    LostTwo,
}

/// Where the chunks are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// One stripe.
    Cache,
    /// Many, each with its own parity.
    Memory,
    /// The same, stored around the caches.
    MemoryPast,
    /// Many, with the parity in the same few places.
    MemoryKept,
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    // Cargo says so to who is to measure.
    let scale = if std::env::args().any(|arg| arg == "--bench") { FULL } else { TRIAL };
    let mut data = AlignedBuf::new(scale.large);
    data.iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * 31) >> 3) as u8);
    let mut parity = AlignedBuf::new(scale.large);
    parity.fill(1);

    println!(
        "{:30} {:>7} {:>7} {:>9} {:>7}   ratios",
        "GB/s of sources",
        "read",
        "pass",
        "portable",
        cpu::kernels().name()
    );
    let sums = [
        ("xor 3+1", Sum::Xor, 3),
        ("xor 4+1", Sum::Xor, 4),
        ("xor 8+1", Sum::Xor, 8),
        ("P+Q 2+2", Sum::PplusQ, 2),
        ("P+Q 8+2", Sum::PplusQ, 8),
        ("update of P and Q", Sum::Update, 2),
        ("lost two of 8+2", Sum::LostTwo, 8),
    ];
    let places = [
        ("L2", Place::Cache),
        ("DRAM", Place::Memory),
        ("DRAM, past caches", Place::MemoryPast),
        ("DRAM, kept", Place::MemoryKept),
    ];
    for (name, sum, sources) in sums {
        for (at, place) in places {
            let name = format!("{name}, {at}");
            // Other sums are never stored so.
            let can = place != Place::MemoryPast || matches!(sum, Sum::Xor | Sum::PplusQ);
            if can && name.contains(&filter) {
                Row { scale, sum, sources, place, coefs: coefficients(sum, sources) }.measure(
                    &name,
                    &data,
                    &mut parity,
                );
            }
        }
    }
}

/// What is done with a stripe's sources, and P and Q.
type Work<'a> = dyn FnMut(&[u8], &mut [u8], &mut [u8]) + 'a;

/// One line of the table.
struct Row {
    scale: Scale,
    sum: Sum,
    sources: usize,
    place: Place,
    coefs: Vec<[u8; 2]>,
}

impl Row {
    fn measure(&self, name: &str, data: &[u8], parity: &mut [u8]) {
        let mut rates: [Vec<f64>; 5] = Default::default();
        let mut next = 0;
        // The first round only warms up.
        for round in 0..=self.scale.rounds {
            let contenders: [&mut Work<'_>; 5] = [
                &mut |stripe, _, _| read(stripe, stripe.len()),
                &mut |stripe, _, _| read(stripe, CHUNK),
                &mut |stripe, p, q| self.pass(stripe, p, q),
                &mut |stripe, p, q| self.fold(&Kernels::portable(), stripe, p, q),
                &mut |stripe, p, q| self.fold(&cpu::kernels(), stripe, p, q),
            ];
            for (contender, rates) in contenders.into_iter().zip(&mut rates) {
                let rate = self.rate(&mut next, data, parity, contender);
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        let [in_order, side_by_side, pass, portable, ours] = rates.map(median);
        let read = in_order.max(side_by_side);
        println!(
            "{name:30} {read:7.1} {pass:7.1} {portable:9.1} {ours:7.1}   {:.2} of read, {:.2} of pass",
            ours / read,
            ours / pass
        );
    }

    /// GB/s of `work` over a turn's bytes from the stripe `next` on, which is moved on: who came second to the same stripes
    /// would find some in the last cache.
    fn rate(&self, next: &mut usize, data: &[u8], parity: &mut [u8], work: &mut Work<'_>) -> f64 {
        let bytes = self.sources * CHUNK;
        let (stripes, targets) = match self.place {
            Place::Cache => (1, 1),
            Place::Memory | Place::MemoryPast => (self.scale.large / bytes, self.scale.large / bytes),
            Place::MemoryKept => (self.scale.large / bytes, 4),
        };
        let turns = self.scale.turn / bytes;
        let start = cpu_seconds();
        for turn in *next..*next + turns {
            let stripe = &data[turn % stripes * bytes..][..bytes];
            let (p, q) = parity[turn % targets * 2 * CHUNK..][..2 * CHUNK].split_at_mut(CHUNK);
            work(black_box(stripe), p, q);
        }
        let taken = cpu_seconds() - start;
        *next += turns;
        (turns * bytes) as f64 / taken / 1e9
    }

    fn fold(&self, kernels: &Kernels, stripe: &[u8], p: &mut [u8], q: &mut [u8]) {
        let mut list = [Source { bytes: &[], coef: [0; 2] }; SOURCES];
        for ((entry, bytes), &coef) in list.iter_mut().zip(stripe.chunks_exact(CHUNK)).zip(&self.coefs) {
            *entry = Source { bytes, coef };
        }
        let target = if self.sum == Sum::Xor { Target::One(p) } else { Target::Two(p, q) };
        let sources = black_box(&list[..self.sources]);
        match self.place {
            Place::MemoryPast => kernels.combine_past_caches(target, sources),
            _ => kernels.combine(target, sources, self.sum == Sum::Update),
        }
    }

    /// Reads all sources and writes the targets: 4 KiB of each in turn. An update's targets are read, too.
    fn pass(&self, stripe: &[u8], p: &mut [u8], q: &mut [u8]) {
        const STEP: usize = 4096;
        for at in (0..CHUNK).step_by(STEP) {
            let part = |source: usize| &stripe[source * CHUNK + at..][..STEP];
            for source in 1..self.sources {
                read(part(source), STEP);
            }
            if self.sum == Sum::Update {
                read(&p[at..][..STEP], STEP);
                read(&q[at..][..STEP], STEP);
            }
            p[at..][..STEP].copy_from_slice(black_box(part(0)));
            if self.sum != Sum::Xor {
                q[at..][..STEP].copy_from_slice(black_box(part(0)));
            }
        }
    }
}

/// Reads `bytes`, in streams of `stream` bytes side by side, with the widest loads of this CPU.
fn read(bytes: &[u8], stream: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has just said that it has AVX-512F.
        black_box(unsafe { read_avx512(bytes, stream) });
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has just said that it has AVX2.
        black_box(unsafe { read_avx2(bytes, stream) });
        return;
    }
    black_box(read_words(bytes, stream));
}

/// [`read_words`], compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_avx512(bytes: &[u8], stream: usize) -> [u64; 32] {
    read_words(bytes, stream)
}

/// [`read_words`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(bytes: &[u8], stream: usize) -> [u64; 32] {
    read_words(bytes, stream)
}

/// The disjunction of all that is read: the least that makes a compiler read it.
#[inline(always)]
fn read_words(bytes: &[u8], stream: usize) -> [u64; 32] {
    let mut all = [0; 32];
    for at in (0..stream).step_by(256) {
        for source in bytes.chunks_exact(stream) {
            let (words, _) = source[at..at + 256].as_chunks::<8>();
            for (all, word) in all.iter_mut().zip(words) {
                *all |= u64::from_le_bytes(*word);
            }
        }
    }
    all
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The coefficients of a stripe's sources. For [`Sum::LostTwo`] the data chunks 0 and 1 are lost and the first two sources
/// stand for P and Q; for [`Sum::Update`] all sources are of the data chunk 1.
fn coefficients(sum: Sum, sources: usize) -> Vec<[u8; 2]> {
    let powers = 0..sources as u32;
    match sum {
        Sum::Xor | Sum::PplusQ => powers.map(|j| [1, gf::exp(j)]).collect(),
        Sum::Update => vec![[1, gf::exp(1)]; sources],
        Sum::LostTwo => {
            let b = gf::inv(gf::exp(0) ^ gf::exp(1)).unwrap_or(1);
            let a = gf::mul(b, gf::exp(1));
            let data = powers.skip(2).map(|j| a ^ gf::mul(b, gf::exp(j)));
            [[a, a ^ 1], [b, b]].into_iter().chain(data.map(|c| [c, c ^ 1])).collect()
        }
    }
}
