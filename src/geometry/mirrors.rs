//! RAID10: where the copies of a chunk go.
//!
//! Each chunk of the LU has `near` copies side by side on consecutive slots, wrapping to the next member row,
//! and each of those has `far - 1` further ones: in the next parts of the members, or, with `offset`, in the
//! rows right below. A far copy lies `near` slots further on than the one before it, round the slots or round
//! its *set* of slots.
//!
//! md computes some combinations into places where two chunks meet or two copies share a member. Those are
//! refused ([`Misfit`]), not reproduced: there is nothing on them that could be kept.

use super::divide::Divisor;
use super::layout::{Copies, Sets};
use crate::units::{Slot, SlotSet};

/// Why copies cannot be placed on that many slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misfit {
    /// More copies than slots.
    TooFewSlots,
    /// Two copies of a chunk would share a member: a set has fewer slots than a chunk has copies.
    SharedMember,
    /// Two chunks would share a place: near copies wrap into the row of offset copies, or leave their set.
    SharedPlace,
    /// The numbers do not fit 64 bits.
    TooLarge,
    /// There is no room for a single chunk.
    NoRoom,
}

/// RAID10's layout on members of one length. Lengths and member addresses are counted in chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mirrors {
    slots: Divisor,
    near: Divisor,
    far: u16,
    offset: bool,
    /// Slots in a set; the last one also has those that remain.
    set: u16,
    /// First slot of the last set.
    last_set: u16,
    /// Member rows that hold first copies: a part of the member, or with `offset` every `far`-th row.
    rows: u64,
    /// Divides a member row into a first copy's row and the number of the far copy.
    fold: Divisor,
    /// Chunks of the LU.
    chunks: u64,
}

/// Where the first copy of a chunk lies: slot and member row.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    slot: u16,
    row: u64,
}

impl Mirrors {
    /// `copies` on `slots` members of `length` chunks each.
    pub(super) fn new(copies: Copies, slots: u16, length: u64) -> Result<Mirrors, Misfit> {
        let Copies { near, far, offset, .. } = copies;
        if near * far > slots {
            return Err(Misfit::TooFewSlots);
        }
        let set = match copies.sets {
            // Without far copies a set has nothing to say.
            _ if far == 1 => slots,
            Sets::One => slots,
            Sets::Old => slots / far,
            Sets::Copies => near * far,
        };
        if set < near * far && far > 1 {
            return Err(Misfit::SharedMember);
        }
        let last_set = (slots / set - 1) * set;
        // md takes a slot beyond the start of the larger last set for one of that set, also when it was
        // reached from the set before: with two near copies it is.
        let leaves_set = !slots.is_multiple_of(set) && last_set > 0 && near > 1;
        let wraps_into_offset = offset && far > 1 && !slots.is_multiple_of(near);
        if leaves_set || wraps_into_offset {
            return Err(Misfit::SharedPlace);
        }
        length.checked_mul(u64::from(slots)).ok_or(Misfit::TooLarge)?;
        let rows = length / u64::from(far);
        let chunks = rows * u64::from(slots) / u64::from(near);
        if chunks == 0 {
            return Err(Misfit::NoRoom);
        }
        Ok(Mirrors {
            slots: Divisor::new(u64::from(slots)),
            near: Divisor::new(u64::from(near)),
            far,
            offset,
            set,
            last_set,
            rows,
            fold: Divisor::new(if offset { u64::from(far) } else { rows }),
            chunks,
        })
    }

    /// Chunks of the LU.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Copies of each chunk.
    pub(super) fn copies(&self) -> u16 {
        self.near.get() as u16 * self.far
    }

    /// Chunks used on each member.
    ///
    /// md: ceil(chunks * copies / slots), where chunks = floor(rows * slots / near). The floor leaves out
    /// less than `near` places of first copies, so less than copies <= slots places in all, and the rounding
    /// up restores them: rows * far.
    pub(super) fn used(&self) -> u64 {
        self.rows * u64::from(self.far)
    }

    /// The first copy of chunk `chunk` of the LU.
    #[inline]
    pub(super) fn first(&self, chunk: u64) -> First {
        let (row, slot) = self.slots.div_rem(chunk * self.near.get());
        First { slot: slot as u16, row: if self.offset { row * u64::from(self.far) } else { row } }
    }

    /// Slot and member row of copy `index`, in md's order: each near copy followed by its far copies.
    #[inline]
    pub(super) fn copy(&self, first: First, index: u16) -> (Slot, u64) {
        let (near, far) = if self.far == 1 { (index, 0) } else { (index / self.far, index % self.far) };
        let slots = self.slots.get() as u16;
        let (slot, row) = match first.slot + near {
            slot if slot < slots => (slot, first.row),
            slot => (slot - slots, first.row + 1),
        };
        let stride = if self.offset { 1 } else { self.rows };
        (self.far_slot(slot, far), row + u64::from(far) * stride)
    }

    /// The copy at member row `row` of `slot`: the chunk of the LU and the copy's index.
    pub(super) fn find(&self, slot: Slot, row: u64) -> Option<(u64, u16)> {
        if u64::from(slot.0) >= self.slots.get() || row >= self.used() {
            return None;
        }
        let (quotient, rest) = self.fold.div_rem(row);
        let (row, far) = if self.offset { (quotient, rest) } else { (rest, quotient) };
        let far = far as u16;
        let first = self.first_slot(slot, far);
        let (chunk, near) = self.near.div_rem(row * self.slots.get() + u64::from(first.0));
        (chunk < self.chunks).then_some((chunk, near as u16 * self.far + far))
    }

    /// Has every chunk a copy left, without the members in `missing`? At most slots * copies steps; few
    /// unless most are missing.
    pub(super) fn copy_left_everywhere(&self, missing: &SlotSet) -> bool {
        self.distinct_chunks()
            .all(|first| (0..self.copies()).any(|index| !missing.contains(self.copy(first, index).0)))
    }

    /// The fewest copies that any chunk has left without the members in `missing`: slots * copies steps.
    pub(super) fn fewest_copies(&self, missing: &SlotSet) -> u16 {
        let left = |first: First| {
            let there = |&index: &u16| !missing.contains(self.copy(first, index).0);
            (0..self.copies()).filter(there).count() as u16
        };
        self.distinct_chunks().map(left).min().unwrap_or(0)
    }

    /// One chunk of each sort: after so many the slots repeat, and a small LU ends before that.
    fn distinct_chunks(&self) -> impl Iterator<Item = First> + '_ {
        let (slots, near) = (self.slots.get(), self.near.get());
        let period = if slots.is_multiple_of(near) { slots / near } else { slots };
        (0..period.min(self.chunks)).map(|chunk| self.first(chunk))
    }

    /// The slot of far copy `far` of a chunk that lies on `slot`.
    #[inline]
    fn far_slot(&self, slot: u16, far: u16) -> Slot {
        if far == 0 {
            return Slot(slot);
        }
        let (start, length) = self.set_of(slot);
        Slot(start + (slot - start + far * self.near.get() as u16) % length)
    }

    /// The inverse of [`Mirrors::far_slot`].
    fn first_slot(&self, slot: Slot, far: u16) -> Slot {
        let (start, length) = self.set_of(slot.0);
        let back = far * self.near.get() as u16 % length;
        Slot(start + (slot.0 - start + length - back) % length)
    }

    /// First slot and length of the set that `slot` is in.
    #[inline]
    fn set_of(&self, slot: u16) -> (u16, u16) {
        if slot >= self.last_set {
            (self.last_set, self.slots.get() as u16 - self.last_set)
        } else {
            (slot / self.set * self.set, self.set)
        }
    }
}
