//! What is compared, over what, and what is done.

use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde::{Deserialize, Serialize};

/// Who carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stack {
    /// The transport library: `TransportServer` and `TransportClient`, one async function per connection
    Ours,
    /// tokio's TCP, tokio-tungstenite with a read buffer of 4 KiB, or quinn: the same frames by hand, one write for each
    /// message, or for all answers of one read
    Bare,
    /// The same with 64 messages a write; for one-way messages only
    BareBatched,
    /// The `msgtrans` crate, in a program of its own: --msgtrans
    Msgtrans,
}

/// The protocol below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Over {
    Tcp,
    Websocket,
    Quic,
}

/// What every connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    /// One request after the other, each answered with its own payload
    Request,
    /// One-way messages as fast as they are taken; at the end the server is asked how many it has
    Oneway,
    /// Nothing, after one request: what a connection costs the server
    Idle,
    /// Over QUIC: connect with a full handshake, one request, close; again and again
    Handshake,
    /// The same with handshakes that resume
    Resume,
    /// The server sends one message to all, at a pace; over TCP, to clients that are bare
    Broadcast,
}

impl Stack {
    /// Messages in one write, where it is said.
    pub(super) fn batch(self) -> usize {
        if self == Stack::BareBatched { 64 } else { 1 }
    }
}

impl Pattern {
    /// Whether it is about connecting again and again.
    pub(super) fn reconnects(self) -> bool {
        matches!(self, Pattern::Handshake | Pattern::Resume)
    }

    /// Whether each thing that is done has a time.
    pub(super) fn is_timed(self) -> bool {
        self == Pattern::Request || self.reconnects()
    }
}

/// As an argument says it.
pub(super) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const AUTHORITY: &str = "authority.pem";

/// What all servers of a run present: a certificate as public ones are, issued by an authority between it and the root, which
/// is sent along. All keys are P-256.
pub(super) struct Certificate {
    /// The server's own, and its issuer's.
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// The root, which clients trust.
    pub(super) authority: Vec<u8>,
}

impl Certificate {
    /// Makes one, in this folder.
    pub(super) fn make(folder: &Path) -> anyhow::Result<()> {
        let (root, (middle, own)) = (KeyPair::generate()?, (KeyPair::generate()?, KeyPair::generate()?));
        let (root_params, middle_params) = (authority("the root"), authority("the issuer"));
        let root_certificate = root_params.self_signed(&root)?;
        let middle_certificate =
            middle_params.signed_by(&middle, &Issuer::from_params(&root_params, &root))?;
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&own, &Issuer::from_params(&middle_params, &middle))?;
        std::fs::write(folder.join(CERTIFICATE), certificate.pem() + &middle_certificate.pem())?;
        std::fs::write(folder.join(AUTHORITY), root_certificate.pem())?;
        Ok(std::fs::write(folder.join(KEY), own.serialize_pem())?)
    }

    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let read = |name| std::fs::read(folder.join(name)).with_context(|| format!("no {name} there"));
        Ok(Certificate { chain: read(CERTIFICATE)?, key: read(KEY)?, authority: read(AUTHORITY)? })
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}
