//! Proxies that damage traffic on its way: latency, cuts at a byte, half-open connections, slow and stalled
//! readers, resets; for UDP loss, delay, reordering and black holes.
//!
//! All chance comes from one seed, so that a failing run can be repeated as far as the network allows. They
//! understand nothing of what they carry.

mod tcp;
mod udp;

pub use tcp::{Ending, TcpFaults, TcpProxy};
pub use udp::{UdpFaults, UdpProxy};
