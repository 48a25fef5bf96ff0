//! Keeps faults within what the level promises to survive, or lets them go beyond on purpose.
//!
//! A slot is *impaired* if it has no disk that is in sync, if its disk has a fault that may still strike, or if a failure of it
//! is on its way to be recorded. A new fault is allowed where the level tolerates all impaired slots and this one: zero
//! tolerance then, not one error may be seen. While redundancy does not agree there is none to spare: without a bitmap or a
//! log a parity LU promises nothing for members lost then; mirrors promise one of the values that survived.
//!
//! Scenarios that go beyond have unreadable sectors anywhere, and besides lose as many disks as the level can do without, but
//! have no other faults: errors may be seen, but never wrong data.
//!
//! Bit rot and lost writes strike superblocks only, which have a checksum and an event count to tell. For data there is
//! nothing yet that could.

use std::collections::BTreeSet;

use crate::geometry::Geometry;
use crate::plan::Presence;
use crate::units::{Slot, SlotSet};

use super::disk::SimDisks;

/// What is known of the members' health, by slot, as the LU last published it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// The platter in each slot.
    pub home: Vec<Option<usize>>,
    /// Is it good all over?
    pub whole: Vec<bool>,
    /// Redundancy agrees.
    pub in_sync: bool,
}

/// Says which faults may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Governor {
    pub health: Health,
    /// Platters whose failure is known to somebody, until they are members anew.
    pub hurt: BTreeSet<usize>,
    /// Unreadable sectors are not limited, and do not count against disks that are lost.
    pub beyond: bool,
    /// Redundancy agreed when the LU was opened last.
    pub vouched: bool,
    /// All copies agreed once: what they hold is known.
    pub agreed_once: bool,
}

impl Governor {
    /// Takes over what the LU says of its members.
    pub(super) fn see(&mut self, view: &crate::plan::View, home: Vec<Option<usize>>) {
        self.health.whole = view.members.iter().map(|member| member.presence == Presence::Present).collect();
        self.health.home = home;
        self.health.in_sync = view.synced_below == u64::MAX;
        self.agreed_once |= self.health.in_sync;
    }

    pub(super) fn home(&self, slot: u8) -> Option<usize> {
        self.health.home.get(usize::from(slot)).copied().flatten()
    }

    /// Slots that nothing can be built on.
    pub(super) fn impaired(&self, disks: &SimDisks) -> SlotSet {
        self.without(|platter| is_faulty(disks, platter))
    }

    /// May the disk in `slot` have a fault?
    pub(super) fn allows(&self, disks: &SimDisks, geometry: &Geometry, slot: u8) -> bool {
        self.health.in_sync && self.spares(disks, geometry, slot)
    }

    /// May the disk in `slot` go missing as a whole? Mirrors can do without one also while they do not agree.
    pub(super) fn allows_loss(&self, disks: &SimDisks, geometry: &Geometry, slot: u8) -> bool {
        let mirrored = geometry.parities() == 0 && self.agreed_once;
        let can_go = match self.beyond {
            // (Whatever else may be unreadable.)
            true => geometry.tolerates(&self.without(|_| false).with(Slot(u16::from(slot)))),
            false => self.spares(disks, geometry, slot),
        };
        (self.health.in_sync || mirrored) && can_go
    }

    /// The same for the time in which the LU is not open.
    pub(super) fn spares_at_rest(&self, disks: &SimDisks, geometry: &Geometry, slot: u8) -> bool {
        self.spares(disks, geometry, slot)
    }

    /// Slots whose disk is not there or not a member in full, or is `unfit` besides.
    fn without(&self, unfit: impl Fn(usize) -> bool) -> SlotSet {
        let slots = self.health.home.iter().zip(&self.health.whole).enumerate();
        slots
            .filter(|(_, (home, whole))| {
                let Some(platter) = **home else { return true };
                !**whole || self.hurt.contains(&platter) || unfit(platter)
            })
            .map(|(slot, _)| Slot(slot as u16))
            .collect()
    }

    /// Is there redundancy left for `slot`, after all that is impaired?
    fn spares(&self, disks: &SimDisks, geometry: &Geometry, slot: u8) -> bool {
        !self.beyond && geometry.tolerates(&self.impaired(disks).with(Slot(u16::from(slot))))
    }
}

fn is_faulty(disks: &SimDisks, platter: usize) -> bool {
    let armed = disks.faults(platter, |faults| {
        !faults.latent.is_empty()
            || faults.transient > 0
            || faults.refused_writes > 0
            || faults.lost_flush
            || faults.lost_superblock
            || faults.gone
    });
    armed || disks.refused(platter) || disks.lags(platter)
}
