//! The gateway.

pub mod upstream;
pub mod zone;
