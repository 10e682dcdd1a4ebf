//! The gateway: connection actors, the hub of sessions, upstream routing, limits and drain.
//!
//! It stands between connections (`trunkline-transport`), what frames mean (`trunkline-session`), channels
//! (`trunkline-broker`) and services (`trunkline-service`), and is the one place that knows all four. It refuses to
//! know of files, environment, command lines and databases; the binary gives it typed values.

pub mod auth;
mod channels;
mod connection;
mod context;
pub mod defaults;
mod encode;
mod events;
mod gateway;
pub mod grpc;
mod hub;
mod limits;
mod options;
mod push;
mod services;
mod session;
mod start;
mod stats;
mod trace;
mod tracked;
pub mod upstream;
mod words;
pub mod zone;

pub use connection::Refusal;
pub use gateway::{Cut, Gateway};
pub use limits::{Level, LimitFigures, network};
pub use options::{CallLimit, GatewayOptions, Namespace};
pub use session::{QueueFigures, SessionFigures, SessionPage};
pub use stats::{BOUNDS_SECONDS, Counters, Durations, Snapshot};
pub use trace::{TraceAnswer, TraceOptions, TraceQuestion, TraceStatus, TracedStep};
