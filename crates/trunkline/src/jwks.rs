//! Key sets for tokens that others sign: read from a file, or fetched from a URL.

use std::path::Path;

use anyhow::{Context, bail};
use jsonwebtoken::jwk::JwkSet;

/// The key set of `jwt.jwks`; empty where none is configured.
pub(crate) fn load(source: Option<&str>) -> anyhow::Result<JwkSet> {
    let Some(source) = source else { return Ok(JwkSet { keys: Vec::new() }) };
    if source.starts_with("http://") || source.starts_with("https://") {
        bail!("jwt.jwks: {source}: only a file can be read so far");
    }
    let text = std::fs::read_to_string(Path::new(source))
        .with_context(|| format!("jwt.jwks: {source} cannot be read"))?;
    serde_json::from_str(&text).with_context(|| format!("jwt.jwks: {source} is no JSON Web Key Set"))
}
