//! Keeps a process registered with its gateway.
//!
//! The gateway remembers registrations over its own restarts, so saying it once would do; it is said again
//! now and then because a gateway whose data directory was wiped remembers nothing. Registering is idempotent.
//! It gives up never, and says what it sees.

use std::time::Duration;

use trunkline_proto::wire;

use super::gateway::{GatewayAddress, GrpcContext};
use crate::ContextError;

/// How often a registration that holds is said again.
const REPEAT: Duration = Duration::from_secs(30);
/// Back-off while the gateway is away: from this, doubled,
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
/// to this, so that a fleet of upstreams does not storm a gateway that returns.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// One registration's deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of the last attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationState {
    /// Every registration holds.
    Registered,
    /// The gateway answered no, and will again until somebody changes something.
    Refused(ContextError),
    /// The gateway could not be asked.
    Away(ContextError),
}

/// Registers one process, in as many zones as it serves.
#[derive(Debug, Clone)]
pub struct Registrar {
    context: GrpcContext,
    registrations: Vec<wire::UpstreamRegisterRequest>,
}

impl Registrar {
    /// Registers `registrations` (one for each zone) at the gateway. Nothing happens before [`Self::run`].
    pub fn new(gateway: &GatewayAddress, registrations: Vec<wire::UpstreamRegisterRequest>) -> Self {
        Registrar { context: GrpcContext::new(gateway), registrations }
    }

    /// Registers, and keeps at it until dropped; `tell` hears each change of state. Dropping it leaves the
    /// registrations as they are: [`Self::deregister`] ends them.
    pub async fn run(&self, mut tell: impl FnMut(&RegistrationState) + Send) {
        let mut last = None;
        let mut back_off = BACK_OFF_MIN;
        loop {
            let state = self.register().await;
            let wait = if state == RegistrationState::Registered {
                back_off = BACK_OFF_MIN;
                REPEAT
            } else {
                let wait = back_off;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
                wait
            };
            if last.as_ref() != Some(&state) {
                tell(&state);
                last = Some(state);
            }
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        }
    }

    /// Registers once, in every zone; the first that fails says why.
    pub async fn register(&self) -> RegistrationState {
        for registration in &self.registrations {
            let request = self.context.request(registration.clone(), CALL_TIMEOUT);
            match self.context.client().register_upstream(request).await {
                Ok(response) => {
                    let response = response.into_inner();
                    if !response.success {
                        let (code, message) = (response.error_code, response.message);
                        return RegistrationState::Refused(ContextError {
                            code,
                            message,
                            ..ContextError::default()
                        });
                    }
                }
                Err(status) => return failed(&status),
            }
        }
        RegistrationState::Registered
    }

    /// Takes the process out of every zone, for an orderly end: the gateway sends it no further calls.
    pub async fn deregister(&self) -> RegistrationState {
        for registration in &self.registrations {
            let message = wire::UpstreamDeregisterRequest {
                address: registration.address.clone(),
                zone_id: registration.zone_id.clone(),
                instance_id: registration.instance_id.clone(),
            };
            let request = self.context.request(message, CALL_TIMEOUT);
            if let Err(status) = self.context.client().deregister_upstream(request).await {
                return failed(&status);
            }
        }
        RegistrationState::Registered
    }
}

fn failed(status: &tonic::Status) -> RegistrationState {
    let error = ContextError {
        code: status.code().to_string(),
        message: status.message().to_owned(),
        ..ContextError::default()
    };
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
            RegistrationState::Refused(ContextError { code: "UNAUTHENTICATED".to_owned(), ..error })
        }
        _ => RegistrationState::Away(ContextError { code: "UNAVAILABLE".to_owned(), ..error }),
    }
}
