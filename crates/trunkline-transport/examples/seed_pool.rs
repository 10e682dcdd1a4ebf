//! MsgTrans' `ConnectionPoolConfig` and `RetryConfig`, which the seed names and never used: a client with a pool of
//! connections that tries again and replaces what is lost.
//!
//! Edits to the seed: the crate's name; the pool is a call of the builder. The body is a function of the address that returns
//! how many answers there were, so that the tests run it.
#![allow(clippy::print_stdout, reason = "it is an example")]

use std::{future::IntoFuture, time::Duration};

use trunkline_transport::{RetryConfig, TcpClientConfig, TransportClientBuilder, TransportError};

#[tokio::main]
async fn main() -> Result<(), TransportError> {
    run("127.0.0.1:8080").await.map(|answers| println!("{answers} answers"))
}

pub(crate) async fn run(address: &str) -> Result<usize, TransportError> {
    let client = TransportClientBuilder::new()
        .with_protocol(TcpClientConfig::new(address))
        .connect_timeout(Duration::from_secs(30))
        .retry_strategy(RetryConfig::exponential_backoff(3, Duration::from_millis(100)))
        .pool(2, 4, Duration::from_secs(60))
        .build()
        .await?;
    client.connect().await?;
    let requests = (0..100_u32).map(|i| client.request(i.to_be_bytes().to_vec()).into_future());
    let answers = futures_util::future::try_join_all(requests).await?;
    client.disconnect().await;
    Ok(answers.len())
}
