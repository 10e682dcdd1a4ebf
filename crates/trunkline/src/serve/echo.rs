//! `trunkline.echo`: a service of the process that answers a call with its own data. It is what checks and benchmarks
//! call when no upstream is there.

use async_trait::async_trait;
use trunkline_service::{Call, Caller, Reply, Service, Status};

pub(super) struct Echo;

#[async_trait]
impl Service for Echo {
    fn action_prefix(&self) -> &str {
        "trunkline.echo"
    }

    fn is_idempotent(&self, _action: &str) -> bool {
        true
    }

    async fn call(&self, _caller: &Caller, call: Call) -> Result<Reply, Status> {
        Ok(Reply::ok(call.data))
    }
}
