//! Upstreams: a user's own services behind the gateway, reached over gRPC.
//!
//! [`PeerPolicy`] says who may register.

mod peer_policy;

pub use peer_policy::{ClientCertificate, Peer, PeerPolicy, PeerRefusal};
