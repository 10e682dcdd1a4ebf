//! Flags and variables, and what they come to. Flags win over variables.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Answers hello, logout, echo, time, calculate, status, user_list, broadcast, before and after.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "upstream", version)]
pub struct Options {
    /// Where to listen for the gateway; port 0 takes a free one [default: $UPSTREAM_ADDR, else 127.0.0.1:9000]
    #[arg(long)]
    pub addr: Option<String>,
    /// The zones to serve: 001, or 001,002, or again --zone 002, or all [default: $UPSTREAM_ZONE, else all]
    #[arg(long, value_delimiter = ',')]
    pub zone: Vec<String>,
    /// The gateway's gRPC address [default: $GATEWAY_ADDR, else 127.0.0.1:8092]
    #[arg(long)]
    pub gateway: Option<String>,
    /// The name to register with
    #[arg(long, default_value = "upstream")]
    pub service: String,
    /// The gateway's upstream token; needed where the gateway is not on this machine
    #[arg(long, conflicts_with = "data_dir")]
    pub token: Option<String>,
    /// The gateway's data directory, to read the token from
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Ask a running upstream whether it is well, and exit with 0 if it is
    #[arg(long)]
    pub health_check: bool,
}

/// What flags and variables come to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What the gateway is told: `*` for all.
    pub zones: Vec<String>,
    /// The gateway's gRPC.
    pub gateway: String,
    /// The name to register with.
    pub service: String,
    /// For the gateway.
    pub token: Option<String>,
}

impl Settings {
    /// Fills what the flags leave out from the variables and the defaults.
    ///
    /// # Errors
    /// An address that is none, or a token that cannot be read.
    pub fn resolve(options: Options, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let or = |flag: Option<String>, name: &str, default: &str| {
            flag.or_else(|| variable(name)).unwrap_or_else(|| default.to_owned())
        };
        let mut zones = options.zone;
        if zones.is_empty() {
            let text = variable("UPSTREAM_ZONE").unwrap_or_else(|| "all".to_owned());
            zones = text.split(',').map(str::to_owned).collect();
        }
        let mut zones: Vec<String> = zones.iter().map(|zone| zone.trim().to_owned()).collect();
        if zones.iter().any(|zone| zone == "all" || zone == "*") {
            zones = vec!["*".to_owned()];
        }
        zones.dedup();
        let token = match (options.token, options.data_dir) {
            (None, Some(folder)) => {
                let path = folder.join("keys").join("upstream.token");
                let token = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read the upstream token {}", path.display()))?;
                Some(token.trim().to_owned())
            }
            (token, _) => token,
        };
        Ok(Settings {
            listen: listen_address(&or(options.addr, "UPSTREAM_ADDR", "127.0.0.1:9000"))?,
            zones,
            gateway: or(options.gateway, "GATEWAY_ADDR", "127.0.0.1:8092"),
            service: options.service,
            token,
        })
    }
}

/// `:9000` is every interface, as in Go; `localhost` is this machine.
fn listen_address(text: &str) -> Result<SocketAddr> {
    let full = match text.split_once(':') {
        Some(("", port)) => format!("0.0.0.0:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    match full.parse() {
        Ok(address) => Ok(address),
        Err(_) => {
            bail!("{text:?} is no address to listen on; write 127.0.0.1:9000, or :9000 for all interfaces")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str], variables: &[(&str, &str)]) -> Settings {
        let arguments = [&["upstream"], arguments].concat();
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::resolve(Options::try_parse_from(arguments).unwrap(), find).unwrap()
    }

    #[test]
    fn zones_are_one_or_several_or_all() {
        assert_eq!(settings(&[], &[]).zones, ["*"]);
        assert_eq!(settings(&["--zone", "all"], &[]).zones, ["*"]);
        assert_eq!(settings(&["--zone=001"], &[]).zones, ["001"]);
        assert_eq!(settings(&["--zone", "001,002", "--zone", "003"], &[]).zones, ["001", "002", "003"]);
        assert_eq!(settings(&[], &[("UPSTREAM_ZONE", "004, 005")]).zones, ["004", "005"]);
    }

    #[test]
    fn flags_win_over_variables() {
        let variables = [("UPSTREAM_ADDR", ":9001"), ("GATEWAY_ADDR", "gate:1"), ("UPSTREAM_ZONE", "001")];
        let from_variables = settings(&[], &variables);
        assert_eq!(from_variables.listen.to_string(), "0.0.0.0:9001");
        assert_eq!((from_variables.gateway.as_str(), from_variables.zones[0].as_str()), ("gate:1", "001"));
        let flags = ["--addr", "localhost:7", "--gateway", "other:2", "--zone", "002"];
        let from_flags = settings(&flags, &variables);
        assert_eq!(from_flags.listen.to_string(), "127.0.0.1:7");
        assert_eq!((from_flags.gateway.as_str(), from_flags.zones[0].as_str()), ("other:2", "002"));
    }

    #[test]
    fn the_token_comes_from_the_data_directory_or_its_absence_is_told() {
        let options = Options { data_dir: Some("/nonexistent".into()), ..Options::default() };
        let error = Settings::resolve(options, |_| None).unwrap_err();
        assert!(format!("{error:#}").contains("keys/upstream.token"), "{error:#}");
        assert_eq!(settings(&["--token", "abc"], &[]).token.as_deref(), Some("abc"));
    }

    #[test]
    fn an_address_that_is_none_says_what_one_looks_like() {
        let options = Options { addr: Some("nowhere".into()), ..Options::default() };
        let error = Settings::resolve(options, |_| None).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:9000"), "{error}");
    }
}
