//! What is wrong with a configuration: all of it at once, each with its source, its key and what to do.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The key in a file, and its line where the format tells.
    File {
        /// The file, as it was named.
        file: PathBuf,
        /// The key as the file has it.
        key: String,
        /// Counted from 1.
        line: Option<usize>,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, key, line: Some(line) } => {
                write!(f, "{}: {key} (line {line})", file.display())
            }
            Origin::File { file, key, line: None } => write!(f, "{}: {key}", file.display()),
            Origin::Environment(variable) => write!(f, "environment: {variable}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

impl Origin {
    /// `gateway.toml: unknown key listen.htpp (line 3)`: the way to say that a key means nothing.
    pub(crate) fn unknown(&self) -> String {
        match self {
            Origin::File { file, key, line } => {
                let line = line.map(|line| format!(" (line {line})")).unwrap_or_default();
                format!("{}: unknown key {key}{line}", file.display())
            }
            Origin::Environment(variable) => format!("environment: unknown variable {variable}"),
            Origin::Flag(flag) => format!("unknown flag {flag}"),
        }
    }
}

/// Everything that is wrong with a configuration, one sentence each. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}
