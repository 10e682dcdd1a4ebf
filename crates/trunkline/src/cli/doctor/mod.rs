//! `trunkline doctor`: looks at what commonly goes wrong, and says what to do about each.
//!
//! It changes nothing, makes nothing, and needs no node: where one runs it is asked on every surface, where none runs
//! it is checked that one could start.

mod files;
mod surfaces;
mod validity;

use std::time::{Duration, SystemTime};

use anyhow::bail;
use clap::Args;
use rustix::process::{Resource, getrlimit};

use super::reach::block_on;
use super::{Place, output};
use crate::config::{Config, Problems};
use crate::ready::RunningNode;

/// Fewer sockets than this are soon too few: a node takes nine tenths of the limit as connections.
const FEW_DESCRIPTORS: u64 = 4_096;

/// No build of this program is older: a clock before that is wrong, and certificates and tokens fail by it.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);

/// Checks this machine and the node on it, and says what to do about what is wrong.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    #[command(flatten)]
    place: Place,
}

const EXAMPLES: &str = "One line for each check: ok, note (worth knowing) or FAIL (and what to do). The exit status is 1 where one failed.

Examples:
  trunkline doctor
  trunkline doctor --data-dir /var/lib/trunkline --config /etc/trunkline.toml";

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// As it should be, with what was seen.
    Good(String),
    /// Worth knowing.
    Note(String),
    /// What is wrong, and what to do.
    Bad(String),
}

/// What all checks found, in order.
#[derive(Debug, Default)]
struct Findings {
    checks: usize,
    failed: usize,
}

impl Findings {
    /// Prints a finding at once: the next check may take its time.
    fn add(&mut self, what: &str, finding: &Finding) {
        self.checks += 1;
        let (word, text) = match finding {
            Finding::Good(text) => ("ok  ", text),
            Finding::Note(text) => ("note", text),
            Finding::Bad(text) => {
                self.failed += 1;
                ("FAIL", text)
            }
        };
        output::result(&format!("{word}  {what:<14}  {text}"));
    }
}

impl Doctor {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut findings = Findings::default();
        self.examine(&mut findings)?;
        match findings {
            Findings { failed: 0, .. } => Ok(()),
            Findings { checks, failed } => bail!("{failed} of {checks} checks failed"),
        }
    }

    fn examine(&self, findings: &mut Findings) -> anyhow::Result<()> {
        let config = match self.place.load(Vec::new()) {
            Ok(loaded) => {
                findings.add("configuration", &Finding::Good("nothing wrong with it".to_owned()));
                loaded.config
            }
            Err(error) => {
                let problems = error.downcast::<Problems>()?;
                let first = problems.to_string().replace('\n', "; ");
                findings.add("configuration", &Finding::Bad(first));
                // The rest is looked at with what a node has by itself.
                let mut config = Config::default();
                if let Some(data_dir) = &self.place.data_dir {
                    config.node.data_dir.clone_from(data_dir);
                }
                config
            }
        };
        findings.add("clock", &clock());
        findings.add("descriptors", &descriptors());
        files::examine(&config, findings);
        match RunningNode::find(&config.node.data_dir) {
            Ok(node) => {
                findings.add("node", &Finding::Good(format!("process {} says that it runs", node.pid)));
                block_on(async {
                    surfaces::examine(&config, &node, findings).await;
                    Ok(())
                })
            }
            Err(error) => {
                let left = config.node.data_dir.join("node.json").exists();
                let text = format!("{error:#}");
                findings.add("node", &if left { Finding::Bad(text) } else { Finding::Note(text) });
                surfaces::examine_ports(&config, findings);
                Ok(())
            }
        }
    }
}

fn clock() -> Finding {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since < EARLIEST {
        return Finding::Bad(
            "it is years behind, so that tokens and certificates fail: set it, and let NTP keep it"
                .to_owned(),
        );
    }
    Finding::Good(format!("{} s since 1970", since.as_secs()))
}

/// The hard limit counts: a node raises the soft one itself.
fn descriptors() -> Finding {
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < FEW_DESCRIPTORS => Finding::Bad(format!(
            "this user may open {limit} files and sockets, and a node wants {FEW_DESCRIPTORS} or more: raise `ulimit -Hn` (systemd: LimitNOFILE)"
        )),
        Some(limit) => {
            Finding::Good(format!("{limit} files and sockets, of which a node uses 9/10 for connections"))
        }
        None => Finding::Good("no limit".to_owned()),
    }
}
