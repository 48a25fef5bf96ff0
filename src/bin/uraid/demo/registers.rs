//! What the demonstration's LU holds, such that every byte can be told right from wrong.
//!
//! The LU is an array of registers, blocks of 4 KiB. A register holds its own number, a sequence number that
//! grows with every write, and bytes that follow from both, so that a block that is lost, old, torn or in the
//! wrong place gives itself away. The last blocks hold a real file, this program.
//!
//! One writer raises sequence numbers: `begun` before a write, `done` once it is acknowledged. A reader may
//! expect exactly `done` wherever no write is under way.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use indicatif::ProgressBar;
use uraid::{ErrorKind, Lu};

use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::size;
use crate::transfer::{self, Buffer};

/// Bytes in a register.
const BLOCK: usize = 4096;
/// Opens every register.
const MAGIC: [u8; 8] = *b"uraidreg";
/// Most registers in one random write or read.
const RUN: u64 = 64;

/// The registers, the file behind them, and what each should hold.
pub(super) struct Contents {
    begun: Vec<AtomicU32>,
    done: Vec<AtomicU32>,
    bytes_written: AtomicU64,
    /// Padded to whole blocks.
    file: Vec<u8>,
    random: AtomicU64,
}

impl Contents {
    /// As much as fits an LU of `lu_bytes`: registers, and this program behind them if it takes less than
    /// half.
    pub(super) fn plan(lu_bytes: u64) -> Outcome<Contents> {
        let blocks = usize::try_from(lu_bytes / BLOCK as u64).unwrap_or(usize::MAX);
        let mut file = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
        file.resize(file.len().next_multiple_of(BLOCK), 0);
        if file.len() / BLOCK > blocks / 2 {
            file.clear();
        }
        let registers = blocks - file.len() / BLOCK;
        if registers as u64 <= RUN {
            return Err(Failure::usage(format!("an LU of {} is too small for this", size::bytes(lu_bytes))));
        }
        let sequence = || (0..registers).map(|_| AtomicU32::new(0)).collect();
        let random = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
        Ok(Contents { begun: sequence(), done: sequence(), bytes_written: AtomicU64::new(0), file, random })
    }

    /// All of it.
    pub(super) fn bytes(&self) -> u64 {
        self.file_at() + self.file.len() as u64
    }

    /// Written since the start, acknowledged.
    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Writes everything once, from the start to the end.
    pub(super) fn fill(&self, lu: &Lu, bar: &ProgressBar, interrupt: &Interrupt) -> Outcome {
        self.pieces(lu, interrupt, |buffer, at| {
            let registers = self.registers_in(at, buffer.len());
            self.write_registers(lu, registers.start, registers.count, buffer)?;
            let rest = &mut buffer[registers.bytes()..];
            if !rest.is_empty() {
                let at = at + registers.bytes() as u64;
                rest.copy_from_slice(self.file_part(at, rest.len()));
                lu.write_at(rest, at)?;
            }
            bar.inc(buffer.len() as u64);
            Ok(())
        })
    }

    /// Reads everything and checks it. No write may be under way.
    pub(super) fn verify(&self, lu: &Lu, bar: &ProgressBar, interrupt: &Interrupt) -> Outcome {
        self.pieces(lu, interrupt, |buffer, at| {
            lu.read_at(buffer, at)?;
            let registers = self.registers_in(at, buffer.len());
            for (i, block) in buffer[..registers.bytes()].chunks_exact(BLOCK).enumerate() {
                let register = registers.start + i as u64;
                check(block, register, self.done(register))?;
            }
            let rest = &buffer[registers.bytes()..];
            if rest != self.file_part(at + registers.bytes() as u64, rest.len()) {
                return Err(Failure::of(
                    ErrorKind::Io,
                    format!("the file at byte {at} of the LU is not what was written"),
                ));
            }
            bar.inc(buffer.len() as u64);
            Ok(())
        })
    }

    /// Writes runs of registers until `stop`.
    pub(super) fn write_at_random(&self, lu: &Lu, stop: &AtomicBool) -> Outcome {
        let mut buffer = Buffer::new(RUN as usize * BLOCK);
        while !stop.load(Ordering::Relaxed) {
            let (start, count) = self.random_run();
            self.write_registers(lu, start, count, buffer.space())?;
        }
        Ok(())
    }

    /// Reads a run of registers and checks those that nobody was writing; how many those were.
    pub(super) fn read_at_random(&self, lu: &Lu) -> Outcome<u64> {
        let mut buffer = Buffer::new(RUN as usize * BLOCK);
        let (start, count) = self.random_run();
        let space = &mut buffer.space()[..count as usize * BLOCK];
        let before: Vec<u32> = (start..start + count).map(|register| self.done(register)).collect();
        lu.read_at(space, start * BLOCK as u64)?;
        let mut checked = 0;
        for ((register, block), sequence) in (start..).zip(space.chunks_exact(BLOCK)).zip(before) {
            if self.begun[register as usize].load(Ordering::SeqCst) == sequence {
                check(block, register, sequence)?;
                checked += 1;
            }
        }
        Ok(checked)
    }

    /// Raises `count` registers from `start` on, with one write. Only one thread may do so at a time.
    fn write_registers(&self, lu: &Lu, start: u64, count: u64, space: &mut [u8]) -> Outcome {
        let space = &mut space[..count as usize * BLOCK];
        if space.is_empty() {
            return Ok(());
        }
        for (register, block) in (start..).zip(space.chunks_exact_mut(BLOCK)) {
            let sequence = self.begun[register as usize].fetch_add(1, Ordering::SeqCst) + 1;
            generate(block, register, sequence);
        }
        lu.write_at(space, start * BLOCK as u64)?;
        for register in start..start + count {
            self.done[register as usize].fetch_add(1, Ordering::SeqCst);
        }
        self.bytes_written.fetch_add(space.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Goes over everything with one buffer, in pieces that suit the LU.
    fn pieces(
        &self,
        lu: &Lu,
        interrupt: &Interrupt,
        mut work: impl FnMut(&mut [u8], u64) -> Outcome,
    ) -> Outcome {
        let piece = transfer::piece_bytes(&lu.status());
        let mut buffer = Buffer::new(piece as usize);
        let mut at = 0;
        while at < self.bytes() {
            interrupt.check()?;
            let space = &mut buffer.space()[..transfer::piece_at(at, self.bytes(), piece)];
            work(space, at)?;
            at += space.len() as u64;
        }
        Ok(())
    }

    /// The registers in the `length` bytes from `at` on, both multiples of a block.
    fn registers_in(&self, at: u64, length: usize) -> Run {
        let bytes = self.file_at().saturating_sub(at).min(length as u64);
        Run { start: at / BLOCK as u64, count: bytes / BLOCK as u64 }
    }

    /// Where the file begins.
    fn file_at(&self) -> u64 {
        (self.done.len() * BLOCK) as u64
    }

    /// The file's bytes that lie at `at` of the LU.
    fn file_part(&self, at: u64, length: usize) -> &[u8] {
        let from = at.saturating_sub(self.file_at()) as usize;
        &self.file[from..from + length]
    }

    fn done(&self, register: u64) -> u32 {
        self.done[register as usize].load(Ordering::SeqCst)
    }

    /// Half of the runs are a single register, the others up to the longest.
    fn random_run(&self) -> (u64, u64) {
        let state = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let random = mixed(state);
        let count = if random & 1 == 0 { 1 } else { 1 + (random >> 1) % RUN };
        let start = mixed(random) % (self.done.len() as u64 - count);
        (start, count)
    }
}

struct Run {
    start: u64,
    count: u64,
}

impl Run {
    fn bytes(&self) -> usize {
        self.count as usize * BLOCK
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbered blocks")?;
        if self.file.is_empty() { Ok(()) } else { f.write_str(" and this program") }
    }
}

/// Makes `block` what `register` holds at `sequence`.
fn generate(block: &mut [u8], register: u64, sequence: u32) {
    block[..8].copy_from_slice(&MAGIC);
    block[8..16].copy_from_slice(&register.to_le_bytes());
    block[16..24].copy_from_slice(&u64::from(sequence).to_le_bytes());
    let mut state = mixed(register << 32 ^ u64::from(sequence));
    for word in block[24..].chunks_exact_mut(8) {
        // Xorshift: quick, and no two blocks alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Is `block` all that `register` holds at `sequence`?
fn check(block: &[u8], register: u64, sequence: u32) -> Outcome {
    let mut expected = [0; BLOCK];
    generate(&mut expected, register, sequence);
    if block == expected {
        return Ok(());
    }
    let number = |at: usize| block[at..at + 8].iter().rev().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
    let found = if block[..8] == MAGIC {
        format!("block {}, write {}", number(8), number(16))
    } else {
        "no block of ours".to_owned()
    };
    let wanted = format!("block {register} should hold its write {sequence}");
    Err(Failure::of(ErrorKind::Io, format!("WRONG DATA: {wanted}, but holds {found}")))
}

/// A bijection that scatters its argument (the finisher of splitmix64); zero only for one argument.
fn mixed(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_gives_itself_away() {
        let mut block = [0; BLOCK];
        generate(&mut block, 7, 3);
        assert!(check(&block, 7, 3).is_ok());
        assert!(check(&block, 7, 4).is_err());
        assert!(check(&block, 8, 3).is_err());
        assert!(check(&[0; BLOCK], 7, 3).is_err());
        for at in 0..BLOCK {
            block[at] ^= 1;
            assert!(check(&block, 7, 3).is_err(), "byte {at}");
            block[at] ^= 1;
        }
    }

    #[test]
    fn runs_stay_inside() {
        let contents = Contents::plan(1 << 20).unwrap();
        for _ in 0..1000 {
            let (start, count) = contents.random_run();
            assert!((1..=RUN).contains(&count) && (start + count) as usize <= contents.done.len());
        }
        assert!(Contents::plan(1 << 16).is_err());
    }
}
