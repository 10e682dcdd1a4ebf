//! What a dictionary brings for small messages: the same thousand, sent as they are, with zstd, and with zstd and a dictionary of
//! two of their kind.
#![allow(clippy::print_stdout, reason = "it is an example")]

use tokio::task::JoinSet;
use trunkline_transport::{
    Compression, Dictionary, DictionaryError, MemoryServerConfig, Packet, Session, TransportClientBuilder,
    TransportError, TransportServerBuilder,
};

const MESSAGES: u32 = 1000;

#[tokio::main]
async fn main() -> Result<(), TransportError> {
    println!("{}", run().await?);
    Ok(())
}

/// What a message takes on the wire in each of the ways, its envelope of 16 bytes included.
pub(crate) async fn run() -> Result<String, TransportError> {
    let length = (0..MESSAGES).map(|i| message(i).len()).sum::<usize>() / MESSAGES as usize;
    let plain = bytes_each(Compression::None).await?;
    let zstd = bytes_each(Compression::Zstd).await?;
    let with_dictionary = bytes_each(Compression::ZstdDictionary).await?;
    Ok(format!(
        "JSON messages of {length} bytes take {plain} on the wire, {zstd} with zstd alone and {with_dictionary} with a dictionary"
    ))
}

/// Two typical messages: their zeros are where others differ.
pub(crate) fn dictionary() -> Result<Dictionary, DictionaryError> {
    Dictionary::new([message(MESSAGES), message(MESSAGES + 1)].concat())
}

/// A small message like many others, no two of which are the same.
pub(crate) fn message(i: u32) -> String {
    let noise = |salt: u32| (i + 1).wrapping_mul(salt).wrapping_mul(2_654_435_761) >> 7;
    format!(
        r#"{{"type":"position","user":"u-{:07x}","room":"lobby-{}","x":{}.{:02},"y":{}.{:02},"at":"2026-11-30T{:02}:{:02}:{:02}Z"}}"#,
        noise(1),
        noise(3) % 16,
        noise(5) % 1000,
        noise(7) % 100,
        noise(11) % 1000,
        noise(13) % 100,
        noise(17) % 24,
        noise(19) % 60,
        noise(23) % 60,
    )
}

async fn bytes_each(compression: Compression) -> Result<u64, TransportError> {
    let dictionary = dictionary().map_err(TransportError::other)?;
    let (memory, way) = MemoryServerConfig::new();
    let server = TransportServerBuilder::new()
        .with_protocol(memory)
        .dictionary(dictionary.clone())
        .compression(compression, 1)
        .build()
        .await?;
    let serving = server.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serving.serve_with(tell).await });
    let client = TransportClientBuilder::new().with_protocol(way).dictionary(dictionary).build().await?;
    client.connect().await?;
    client.request("tell me").await?;
    Ok(server.stats().sent_bytes / u64::from(MESSAGES))
}

/// By the time that a client's first request is there, it has said what it inflates.
async fn tell(mut session: Session) -> Result<(), TransportError> {
    while let Some(request) = session.recv().await? {
        for i in 0..MESSAGES {
            session.send(Packet::text(message(i))).await?;
        }
        session.send(request.reply("")).await?;
    }
    Ok(())
}
