//! Upstreams: a user's own services behind the gateway, reached over gRPC.
//!
//! [`Upstreams`] routes calls to them by zone and by route, balances, watches, ejects and retries; it asks them
//! who may start and who may subscribe, and tells them of sessions. It knows no connection, session engine or
//! channel of the client side. [`PeerPolicy`] says who may speak to `GatewayService`.

mod router;

mod dispatch;
mod hooks;
mod pick;

mod channels;
mod driver;
mod events;
mod health;
mod keeper;
mod link;
mod load;
mod pace;
mod peer;
mod signal;
mod unary;

mod registration;
mod registrations;
mod registry;

pub mod defaults;
mod options;
mod peer_policy;
mod snapshot;

pub use health::Phase;
pub use link::{Dial, SocketDial, Stream};
pub use options::{HealthOptions, Route, UpstreamOptions};
pub use peer_policy::{ClientCertificate, Peer, PeerPolicy, PeerRefusal};
pub use registration::{AUTH_SERVICE, Address, RegisterError, Registration, ServedZone};
pub use router::Upstreams;
pub use snapshot::{InstanceSnapshot, TrafficSnapshot, UpstreamsSnapshot};
