//! Tokens that others sign: each algorithm with its own key, and the time before which a token is none.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use trunkline_gateway::auth::{AuthError, AuthMode, Authenticator, JwtOptions, JwtVerifier};
use trunkline_proto::wire::StartRequest;

use crate::support::Node;

/// Keys of these tests; nothing else knows them.
fn signers() -> Result<[(Algorithm, EncodingKey); 3]> {
    Ok([
        (Algorithm::RS256, EncodingKey::from_rsa_pem(include_bytes!("keys/rs256.pem"))?),
        (Algorithm::ES256, EncodingKey::from_ec_pem(include_bytes!("keys/es256.pem"))?),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(include_bytes!("keys/eddsa.pem"))?),
    ])
}

fn verifier(signers: &[(Algorithm, EncodingKey)]) -> Result<JwtVerifier> {
    let mut keys = Vec::new();
    for (algorithm, key) in signers {
        let mut jwk = Jwk::from_encoding_key(key, *algorithm)?;
        jwk.common.key_id = Some(format!("{algorithm:?}"));
        keys.push(jwk);
    }
    Ok(JwtVerifier::new(None, JwkSet { keys }, JwtOptions::default()))
}

#[test]
fn rs256_es256_and_eddsa_are_verified_with_the_key_set() -> Result<()> {
    let signers = signers()?;
    let verifier = verifier(&signers)?;
    for (algorithm, key) in &signers {
        let claims = json!({ "sub": "alice", "tl": { "groups": ["g1"] } });
        for kid in [None, Some(format!("{algorithm:?}"))] {
            let token = encode(&Header { kid, ..Header::new(*algorithm) }, &claims, key)?;
            let identity = verifier.verify(&token)?;
            assert_eq!((identity.user.as_str(), identity.groups), ("alice", vec!["g1".to_owned()]));
            // The signature is the last part: one bit of it changed.
            let mut forged = token.clone().into_bytes();
            let at = forged.len() - 20;
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            ensure!(verifier.verify(&String::from_utf8(forged)?).is_err(), "a forged {algorithm:?} is taken");
        }
        let other = Header { kid: Some("unknown".into()), ..Header::new(*algorithm) };
        ensure!(verifier.verify(&encode(&other, &claims, key)?).is_err(), "an unknown key is taken");
    }
    Ok(())
}

#[test]
fn a_token_is_none_before_its_nbf_and_after_its_exp() -> Result<()> {
    let signers = signers()?;
    let verifier = verifier(&signers)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for (algorithm, key) in &signers {
        for (nbf, exp, good) in
            [(now - 60, now + 60, true), (now + 60, now + 120, false), (now - 60, now - 30, false)]
        {
            let claims = json!({ "sub": "alice", "nbf": nbf, "exp": exp });
            let verified = verifier.verify(&encode(&Header::new(*algorithm), &claims, key)?);
            assert_eq!(verified.is_ok(), good, "{algorithm:?}: {verified:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_authenticator_is_asked_about_every_token_also_where_none_is_needed() -> Result<()> {
    let node = Node::start().await?;
    let mode = AuthMode::Upstream(Arc::clone(&node.upstreams));
    let authenticator = Authenticator::new(mode, true);
    let ask = |token: &str| {
        let start =
            StartRequest { openid: "alice".into(), auth_token: token.into(), ..StartRequest::default() };
        let authenticator = &authenticator;
        async move { authenticator.authenticate(&start, "tcp", "").await }
    };
    for none in ["", "default-token"] {
        assert_eq!(ask(none).await.map(|identity| identity.user), Ok("alice".into()));
    }
    // Nobody has registered as the authenticator, so who asks it has no answer.
    for opaque in ["opaque", "a.b.c"] {
        assert!(matches!(ask(opaque).await, Err(AuthError::Unavailable(_))), "{opaque} was not asked about");
    }
    node.stop(()).await
}
