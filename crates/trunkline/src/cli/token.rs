//! `trunkline token`: prints one signed token and nothing else, for the nodes that share the data directory's key.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use trunkline_gateway::auth::MAX_USER;

use super::{Place, duration, output};
use crate::config::{May, Right};
use crate::data_dir::DataDir;
use crate::keys;

/// Prints a token (JWT, HS256) that nodes with the same data directory accept.
#[derive(Debug, Clone, Args)]
pub(crate) struct Token {
    #[command(flatten)]
    place: Place,
    /// Whom the token makes its bearer
    #[arg(long)]
    user: String,
    /// How long it is valid, such as 30s, 15m or 1h
    #[arg(long, value_parser = duration, default_value = "1h")]
    ttl: Duration,
    /// A group the user is in; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// What the user may do on which channels, such as room:*=subscribe,publish; may be repeated
    #[arg(long = "right", value_name = "PATTERN=MAY", value_parser = right)]
    rights: Vec<Right>,
    /// The platform of the device that will use it
    #[arg(long)]
    platform: Option<String>,
}

impl Token {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        is_user(&self.user)?;
        if self.groups.iter().any(String::is_empty) {
            bail!("--group is empty: name the group that the user is in, or leave it out");
        }
        let grant = Grant {
            user: &self.user,
            ttl: self.ttl,
            groups: &self.groups,
            rights: &self.rights,
            platform: self.platform.as_deref(),
        };
        let dir = self.place.data_dir()?;
        let is_new = !dir.join(keys::JWT_KEY).exists();
        let token = grant.sign(&dir)?;
        if is_new {
            // Somebody who stands in the wrong folder would look for the fault in the token.
            output::complain(&format!(
                "made a new key, {}: only a node with this data directory takes the token. Name its own with --data-dir",
                dir.join(keys::JWT_KEY).display()
            ));
        }
        output::result(&token);
        Ok(())
    }
}

/// What a node would say no to at START, whatever the token.
fn is_user(user: &str) -> anyhow::Result<()> {
    if user.is_empty() {
        bail!("--user is empty: name the user that the token is for");
    }
    if user.len() > MAX_USER {
        bail!(
            "--user has {} bytes, and a node takes users of at most {MAX_USER}: name it shorter",
            user.len()
        );
    }
    if user.chars().any(char::is_control) {
        bail!(
            "--user has a control character, such as a line break, and no node takes such a user: leave it out"
        );
    }
    Ok(())
}

/// What a token says of its bearer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant<'a> {
    pub(super) user: &'a str,
    pub(super) ttl: Duration,
    pub(super) groups: &'a [String],
    pub(super) rights: &'a [Right],
    pub(super) platform: Option<&'a str>,
}

/// The claims of protocol.md section 2.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    tl: Own<'a>,
}

#[derive(Debug, Serialize)]
struct Own<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rights: Vec<Granted<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Granted<'a> {
    pattern: &'a str,
    may: Vec<&'static str>,
}

impl Grant<'_> {
    /// The token, signed with the key of this data directory.
    pub(super) fn sign(self, dir: &DataDir) -> anyhow::Result<String> {
        let key = keys::jwt_key(dir)?;
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
        let rights = self.rights.iter().map(|right| Granted {
            pattern: &right.pattern,
            may: right.may.iter().map(|may| may.as_str()).collect(),
        });
        let claims = Claims {
            sub: self.user,
            iat: now.as_secs(),
            // Whole seconds, rounded up: a token never lives shorter than asked.
            exp: now.saturating_add(self.ttl).saturating_add(Duration::from_millis(999)).as_secs(),
            tl: Own { role: "user", groups: self.groups, rights: rights.collect(), platform: self.platform },
        };
        let key = jsonwebtoken::EncodingKey::from_secret(&key);
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)
            .context("the token cannot be signed")
    }
}

fn right(text: &str) -> Result<Right, String> {
    let wrong = || {
        "wanted PATTERN=MAY such as room:*=subscribe,publish, of subscribe, publish, history, presence"
            .to_owned()
    };
    // A pattern may hold a `=`, the words behind it do not.
    let (pattern, words) = text.rsplit_once('=').ok_or_else(wrong)?;
    let may: Option<Vec<May>> =
        words.split(',').map(|word| May::ALL.into_iter().find(|may| may.as_str() == word.trim())).collect();
    match may {
        Some(may) if !pattern.is_empty() => Ok(Right { pattern: pattern.to_owned(), may }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_a_pattern_and_words() {
        let both = Right { pattern: "a=b:*".to_owned(), may: vec![May::Subscribe, May::Publish] };
        assert_eq!(right("a=b:*=subscribe,publish"), Ok(both));
        for wrong in ["room:*", "=subscribe", "room:*=", "room:*=write", "room:*=subscribe,"] {
            assert!(right(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
