//! The gRPC surface: what upstreams and operators ask of this node from outside.
//!
//! [`serve`] answers `GatewayService` with the powers of [`Gateway::context`](crate::Gateway::context), so that a
//! service behind gRPC can do what one in the process can, no more and no less; and health and reflection, so that
//! balancers and tools need nothing of ours. Failures of what was asked are in the answer, as in seed 003; a gRPC
//! status is for peers that may not ask, and for requests that make no sense.
//!
//! It decides nothing of pushes, channels or registrations: that is the context's and the upstreams' business.

mod server;

mod connection;
mod preface;

mod broadcast;
mod service;

mod options;

pub use crate::upstream::{ClientCertificate, Peer, Stream};
pub use options::GrpcOptions;
pub use server::{GrpcServer, serve};
