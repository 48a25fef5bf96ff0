//! Why things are as they are. Built and link-checked with the code; where it and the code differ, one of them is a bug.
//!
//! | page | what it answers |
//! |---|---|
//! | [`architecture`] | where does what belong, and what must a part never know |
//! | [`vocabulary`] | what does a word mean here |
//! | [`promises`] | what is promised, word for word, how far that goes, and which test guards it |
//! | [`failure_model`] | what may go wrong, what is promised then, what is not |
//! | [`on_disk`] | what is where on a member, and why |
//! | [`performance`] | how fast is it, measured how, and where does the time go |
//! | [`serving`] | how do others use an LU: QEMU, containers, backup tools, the kernel, systemd |
//! | [`lessons`] | what was learned the hard way |

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("vocabulary.md")]
pub mod vocabulary {}

#[doc = include_str!("promises.md")]
pub mod promises {}

#[doc = include_str!("failure_model.md")]
pub mod failure_model {}

#[doc = include_str!("on_disk.md")]
pub mod on_disk {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("serving.md")]
pub mod serving {}

#[doc = include_str!("lessons.md")]
pub mod lessons {}
