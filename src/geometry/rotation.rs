//! RAID4, RAID5, RAID6: which slot of a stripe holds P, Q and each data chunk, and the powers of Q.
//!
//! All chunks of a stripe lie at the same member address, so the stripe's number alone decides. A layout is
//! four answers, and each of md's layout numbers is one combination of them:
//!
//! * how P moves from stripe to stripe ([`PMove`]),
//! * where Q is ([`QPlace`]),
//! * in which order data takes the other slots ([`DataOrder`]): upward from slot 0 past the parities (md:
//!   asymmetric), or upward from the parities and around the end (symmetric),
//! * which power of the generator each data chunk has in Q ([`Powers`]).

use super::divide::Divisor;
use crate::units::{Level, Slot};

/// A layout with parity, for a number of slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    slots: u16,
    /// The slots that P and data move over: all, or all but the last where Q has that one for good.
    turning: Divisor,
    p: PMove,
    q: QPlace,
    order: DataOrder,
    powers: Powers,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PMove {
    /// Stays on this slot.
    Fixed(u16),
    /// From the last slot downward.
    Down,
    /// As `Down`, one stripe ahead of it (DDF).
    DownAhead,
    /// From slot 0 upward.
    Up,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum QPlace {
    None,
    AfterP,
    BeforeP,
    Last,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DataOrder {
    FromSlot0,
    FromParity,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Powers {
    /// Counted over the data slots upward from the one after Q.
    FromQ,
    /// The slot number.
    Slot,
}

/// No slot.
const NONE: u16 = u16::MAX;

impl Rotation {
    /// The layout `number` of `level` over `slots` slots; `None` if the level has none such. `slots` is at
    /// least 2, 4 for RAID6.
    pub(super) fn new(level: Level, number: u32, slots: u16) -> Option<Rotation> {
        let raid6 = level == Level::Raid6;
        let last = slots - 1;
        let (p, q, order) = match (level, number) {
            (Level::Raid4, _) => (PMove::Fixed(last), QPlace::None, DataOrder::FromSlot0),
            (Level::Raid5, 0..=5) => rotation(number, QPlace::None, last),
            (Level::Raid6, 0..=5) => rotation(number, QPlace::AfterP, last - 1),
            (Level::Raid6, 8) => (PMove::Up, QPlace::AfterP, DataOrder::FromSlot0),
            (Level::Raid6, 9) => (PMove::DownAhead, QPlace::AfterP, DataOrder::FromSlot0),
            (Level::Raid6, 10) => (PMove::Down, QPlace::BeforeP, DataOrder::FromParity),
            (Level::Raid6, 16..=20) => rotation(number - 16, QPlace::Last, last - 1),
            _ => return None,
        };
        let turning = if q == QPlace::Last { last } else { slots };
        let powers = if raid6 && matches!(number, 8..=10) { Powers::Slot } else { Powers::FromQ };
        Some(Rotation { slots, turning: Divisor::new(u64::from(turning)), p, q, order, powers })
    }

    /// Are the powers of Q slot numbers? Then those, and not only the data chunks, must stay below 255.
    pub(super) fn powers_are_slots(&self) -> bool {
        self.powers == Powers::Slot
    }

    /// Does `slot` hold parity in every stripe, whatever their number?
    pub(super) fn parity_only(&self, slot: Slot) -> bool {
        let fixed_p = match self.p {
            PMove::Fixed(p) => p,
            PMove::Down | PMove::DownAhead | PMove::Up => NONE,
        };
        let fixed_q = match self.q {
            QPlace::AfterP if fixed_p != NONE => fixed_p + 1,
            QPlace::Last => self.slots - 1,
            QPlace::None | QPlace::AfterP | QPlace::BeforeP => NONE,
        };
        slot.0 < self.slots && (slot.0 == fixed_p || slot.0 == fixed_q)
    }

    /// The slots of stripe number `stripe`.
    #[inline]
    pub(super) fn stripe(&self, stripe: u64) -> Slots {
        let turning = self.turning.get() as u16;
        let turn = |stripe: u64| self.turning.div_rem(stripe).1 as u16;
        let p = match self.p {
            PMove::Fixed(p) => p,
            PMove::Down => turning - 1 - turn(stripe),
            PMove::DownAhead => turning - 1 - turn(stripe + 1),
            PMove::Up => turn(stripe),
        };
        let next = |slot: u16| if slot + 1 == turning { 0 } else { slot + 1 };
        let q = match self.q {
            QPlace::None => NONE,
            QPlace::AfterP => next(p),
            QPlace::BeforeP if p == 0 => turning - 1,
            QPlace::BeforeP => p - 1,
            QPlace::Last => self.slots - 1,
        };
        let start = if self.q == QPlace::AfterP { next(q) } else { next(p) };
        Slots { p, q, start, turning, slots: self.slots, order: self.order, powers: self.powers }
    }
}

/// The layouts that RAID5 and RAID6 share; `parity_last` is where P stays in the last of them.
fn rotation(number: u32, q: QPlace, parity_last: u16) -> (PMove, QPlace, DataOrder) {
    let (p, order) = match number {
        0 => (PMove::Down, DataOrder::FromSlot0),
        1 => (PMove::Up, DataOrder::FromSlot0),
        2 => (PMove::Down, DataOrder::FromParity),
        3 => (PMove::Up, DataOrder::FromParity),
        4 => (PMove::Fixed(0), DataOrder::FromSlot0),
        _ => (PMove::Fixed(parity_last), DataOrder::FromSlot0),
    };
    (p, q, order)
}

/// Who holds what in one stripe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    p: u16,
    /// `NONE` without Q.
    q: u16,
    /// First data slot if data is counted from the parities.
    start: u16,
    turning: u16,
    slots: u16,
    order: DataOrder,
    powers: Powers,
}

/// What a slot holds in a stripe.
pub(super) enum Holds {
    Data(u16),
    P,
    Q,
}

impl Slots {
    /// The slot of P.
    #[inline]
    pub(super) fn p(&self) -> Slot {
        Slot(self.p)
    }

    /// The slot of Q; no member if there is no Q.
    #[inline]
    pub(super) fn q(&self) -> Slot {
        Slot(self.q)
    }

    /// The slot of data chunk `data`, which is one of the stripe's.
    #[inline]
    pub(super) fn data(&self, data: u16) -> Slot {
        Slot(match self.order {
            DataOrder::FromParity => {
                let slot = self.start + data;
                if slot >= self.turning { slot - self.turning } else { slot }
            }
            DataOrder::FromSlot0 => {
                let slot = data + u16::from(data >= self.p.min(self.q));
                slot + u16::from(slot >= self.p.max(self.q))
            }
        })
    }

    /// What `slot` holds; the inverse of the above. `None` if there is no such slot.
    #[inline]
    pub(super) fn holds(&self, slot: Slot) -> Option<Holds> {
        let slot = slot.0;
        if slot >= self.slots {
            return None;
        }
        Some(if slot == self.p {
            Holds::P
        } else if slot == self.q {
            Holds::Q
        } else {
            Holds::Data(match self.order {
                DataOrder::FromParity if slot >= self.start => slot - self.start,
                DataOrder::FromParity => slot + self.turning - self.start,
                DataOrder::FromSlot0 => slot - u16::from(slot > self.p) - u16::from(slot > self.q),
            })
        })
    }

    /// The power of the generator that data chunk `data` is multiplied by in Q: how many data slots lie
    /// between Q and it, going upward; in DDF's layouts its slot number.
    #[inline]
    pub(super) fn q_power(&self, data: u16) -> u8 {
        let slot = self.data(data).0;
        let power = match self.powers {
            Powers::Slot => slot,
            Powers::FromQ => {
                let past_q = |slot: u16| {
                    if slot > self.q { slot - self.q - 1 } else { slot + self.slots - self.q - 1 }
                };
                past_q(slot) - u16::from(past_q(self.p) < past_q(slot))
            }
        };
        power as u8
    }
}
