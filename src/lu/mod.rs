//! LU
pub mod status;
