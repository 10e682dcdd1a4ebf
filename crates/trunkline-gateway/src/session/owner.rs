//! Whose session it is, as services see it: what the newest token grants, and the [`Caller`] that is made of it.
//!
//! Most sessions are idle most of the time, so what is kept of each is packed. The caller is made when a service has to
//! know it, and given back with the first heartbeat that finds no call running. It checks no token.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use trunkline_service::{Caller, Role};
use trunkline_transport::Protocol as TransportProtocol;

use super::Session;
use crate::auth::{Identity, Rights};
use crate::connection::Handle;
use crate::gateway::Node;

/// What a session keeps of the identity behind it. The user is the session's, the groups are the hub's.
#[derive(Default)]
pub(super) struct Owner {
    role: Role,
    rights: Option<Arc<Rights>>,
    /// As a JSON object, since a map of a few words is several times as large.
    claims: Option<Box<str>>,
    caller: Option<Arc<Caller>>,
    left: Option<Box<Left>>,
}

/// Where the client was connected last, while it is not.
struct Left {
    protocol: TransportProtocol,
    peer: Option<SocketAddr>,
}

impl Owner {
    /// A token was checked, on the connection that holds the session now.
    pub(super) fn set(&mut self, node: &Node, identity: &Identity) {
        let claims = (!identity.claims.is_empty()).then(|| serde_json::to_string(&identity.claims).ok());
        *self = Owner {
            role: identity.role,
            rights: identity.rights.as_ref().map(|rights| node.rights.share(rights)),
            claims: claims.flatten().map(String::into_boxed_str),
            caller: None,
            left: None,
        };
    }

    pub(super) fn rights(&self) -> Option<Arc<Rights>> {
        self.rights.clone()
    }

    /// The connection is gone; services still hear where it was.
    pub(super) fn left(&mut self, handle: Option<&Handle>) {
        if let Some(handle) = handle {
            self.left = Some(Box::new(Left { protocol: handle.protocol(), peer: handle.peer }));
            self.caller = None;
        }
    }

    /// The session is idle.
    pub(super) fn rest(&mut self) {
        self.caller = None;
    }

    /// Of whom an event tells. It is kept for calls only: what every session kept behind its START, and gave back later,
    /// would leave holes in the node's memory.
    pub(super) fn teller(&self, session: &Session, node: &Node, handle: Option<&Handle>) -> Arc<Caller> {
        self.caller.clone().unwrap_or_else(|| Arc::new(self.make(session, node, handle)))
    }

    /// Who calls.
    pub(super) fn caller(&mut self, session: &Session, node: &Node, handle: Option<&Handle>) -> Arc<Caller> {
        let caller = self.teller(session, node, handle);
        self.caller = handle.map(|_| Arc::clone(&caller));
        caller
    }

    fn make(&self, session: &Session, node: &Node, handle: Option<&Handle>) -> Caller {
        let at = match (handle, &self.left) {
            (Some(handle), _) => Some((handle.protocol(), handle.peer)),
            (None, left) => left.as_ref().map(|left| (left.protocol, left.peer)),
        };
        // It was written by `set`, so it can be read.
        let claims = self.claims.as_deref().and_then(|claims| serde_json::from_str(claims).ok());
        Caller {
            user: session.user.to_string(),
            session: session.id.to_string(),
            fence: session.fence(),
            device: session.device.to_string(),
            platform: session.platform.to_string(),
            role: self.role,
            claims: claims.unwrap_or_default(),
            transport: at.map(|(protocol, _)| protocol.as_str().to_owned()).unwrap_or_default(),
            remote_address: at.and_then(|(_, peer)| peer).map(|peer| peer.to_string()).unwrap_or_default(),
            node: node.options().node.clone(),
        }
    }
}

/// The rights of tokens, shared by sessions whose tokens grant the same, as those of one application mostly do.
#[derive(Default)]
pub(crate) struct SharedRights {
    newest: Mutex<Option<Arc<Rights>>>,
}

impl SharedRights {
    fn share(&self, rights: &Rights) -> Arc<Rights> {
        let mut newest = self.newest.lock();
        match &*newest {
            Some(known) if **known == *rights => Arc::clone(known),
            _ => Arc::clone(newest.insert(Arc::new(rights.clone()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rights_are_kept_once() {
        let shared = SharedRights::default();
        let first = shared.share(&Rights::everything());
        assert!(Arc::ptr_eq(&first, &shared.share(&Rights::everything())));
        let other = shared.share(&Rights::default());
        assert_eq!((*other).clone(), Rights::default());
        assert_eq!(*first, Rights::everything());
    }
}
