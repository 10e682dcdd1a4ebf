//! A service in its own process: the same [`Service`](crate::Service) and [`Context`](crate::Context), with
//! `gatesvr.proto` between them and the gateway.
//!
//! - [`Remote`] serves a `Service` as the gRPC `UpstreamService`;
//! - [`GrpcContext`] is a `Context` whose every method is a call of `GatewayService`;
//! - [`Registrar`] tells the gateway about the process, and again when the gateway was away;
//! - [`convert`] has the words of both sides, each way, for the gateway too.
//!
//! It binds no port and spawns no task: the process that uses it decides both.

pub mod convert;
mod gateway;
mod registrar;
mod remote;

pub use gateway::{GatewayAddress, GatewayAddressError, GrpcContext};
pub use registrar::{Registrar, RegistrationState};
pub use remote::Remote;
