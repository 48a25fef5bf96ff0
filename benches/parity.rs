//! How fast parity is computed, next to `memcpy` of the same bytes.
//!
//! Rates are bytes of *data* protected (`memcpy`: bytes copied) per second on one core, in chunks of 64 KiB. "L2" folds
//! one stripe again and again; "DRAM" walks over more stripes than any cache holds. Run it on an idle machine:
//! `cargo bench --bench parity`, or one line of it with `cargo bench --bench parity -- 'P+Q 8+2, L2'`.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use uraid::disk::cpu;
use uraid::parity::{Kernels, Source, Target, gf};

/// Bytes in a chunk.
const CHUNK: usize = 64 << 10;

/// Bytes of data that no cache holds.
const LARGE: usize = 1 << 30;

/// What to fold a stripe into.
#[derive(Clone, Copy, PartialEq)]
enum Fold {
    /// P over all data chunks.
    Xor,
    /// P and Q over all data chunks.
    PplusQ,
    /// Two lost data chunks out of the other data chunks, P and Q: coefficients of all sorts.
    LostTwo,
}

fn parity(criterion: &mut Criterion) {
    let shapes = [
        ("xor 4+1", Fold::Xor, 4),
        ("xor 8+1", Fold::Xor, 8),
        ("P+Q 8+2", Fold::PplusQ, 8),
        ("lost two of 8+2", Fold::LostTwo, 8),
    ];
    for (name, fold, chunks) in shapes {
        let stripe = chunks * CHUNK;
        for (place, stripes) in [("L2", 1), ("DRAM", LARGE / stripe)] {
            let mut group = criterion.benchmark_group(format!("{name}, {place}"));
            group.throughput(Throughput::Bytes(stripe as u64));
            compare(&mut group, fold, chunks, stripes);
            group.finish();
        }
    }
}

/// `memcpy` and each kernel set over `stripes` stripes of `chunks` chunks.
fn compare(group: &mut BenchmarkGroup<'_, WallTime>, fold: Fold, chunks: usize, stripes: usize) {
    let stripe = chunks * CHUNK;
    let data: Vec<u8> = (0..stripes * stripe).map(|i| ((i * 31) >> 3) as u8).collect();

    // Not zeroed pages, which would all be one page of zeros until first written.
    let mut copy = data.clone();
    let mut turn = 0;
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| {
            turn = (turn + 1) % stripes;
            let range = turn * stripe..(turn + 1) * stripe;
            copy[range.clone()].copy_from_slice(black_box(&data[range]));
        });
    });
    drop(copy);

    let coefs = coefficients(fold, chunks);
    let mut parity = vec![1; stripes * 2 * CHUNK];
    for kernels in [Kernels::portable(), cpu::kernels()] {
        let mut turn = 0;
        group.bench_function(kernels.name(), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % stripes;
                let sources = data[turn * stripe..][..stripe].chunks_exact(CHUNK).zip(&coefs);
                let mut list = [Source { bytes: &[], coef: [0; 2] }; 8];
                for (entry, (bytes, &coef)) in list.iter_mut().zip(sources) {
                    *entry = Source { bytes, coef };
                }
                let (p, q) = parity[turn * 2 * CHUNK..][..2 * CHUNK].split_at_mut(CHUNK);
                let target = if fold == Fold::Xor { Target::One(p) } else { Target::Two(p, q) };
                kernels.combine(target, black_box(&list[..chunks]), false);
            });
        });
    }
}

/// The coefficients of a stripe's sources. For [`Fold::LostTwo`] the data chunks 0 and 1 are lost and the first two
/// sources stand for P and Q.
fn coefficients(fold: Fold, chunks: usize) -> Vec<[u8; 2]> {
    let powers = 0..chunks as u32;
    match fold {
        Fold::Xor | Fold::PplusQ => powers.map(|j| [1, gf::exp(j)]).collect(),
        Fold::LostTwo => {
            let b = gf::inv(gf::exp(0) ^ gf::exp(1)).unwrap_or(1);
            let a = gf::mul(b, gf::exp(1));
            let data = powers.skip(2).map(|j| a ^ gf::mul(b, gf::exp(j)));
            [[a, a ^ 1], [b, b]].into_iter().chain(data.map(|c| [c, c ^ 1])).collect()
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = parity
}
criterion_main!(benches);
