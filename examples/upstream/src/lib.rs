//! An upstream like GateSvr's own: its actions, its flags, its variables, its health page.
//!
//! Read it to write your own: [`Actions`] is a [`Service`](trunkline_service::Service) and knows nothing of gRPC;
//! [`run`] serves it, registers it and ends it in order. It keeps its users in memory and nothing anywhere else.

mod actions;
mod calculate;
mod clock;
mod health;
mod options;
mod run;

pub use actions::Actions;
pub use health::check_health;
pub use options::{Options, Settings};
pub use run::run;
