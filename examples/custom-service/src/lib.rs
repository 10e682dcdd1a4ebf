//! A service of one's own: rooms in which users talk.
//!
//! [`Rooms`] is written once, against [`trunkline_service`] alone. It runs in the gateway's process
//! (`gateway.mount(Arc::new(Rooms::default()))`) or in its own, behind gRPC ([`serve`]), and cannot tell which.
//! `tests/both_forms.rs` runs one test body over both.

mod rooms;
mod serve;

pub use rooms::Rooms;
pub use serve::{SERVICE, serve};
