//! MsgTrans' "新增协议支持" (adding a protocol): packets over Linux' abstract Unix sockets, which this library does not ship.
//!
//! Edits to the seed: its two configuration traits and its adapter are one trait; the rest of the program is the same.
#![allow(clippy::print_stdout, reason = "it is an example")]

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    },
};

use tokio::net::{UnixListener, UnixStream};
use trunkline_transport::{
    CustomProtocol, Link, Session, TransportClientBuilder, TransportError, TransportServerBuilder,
};

struct Abstract(&'static str);

impl CustomProtocol for Abstract {
    type Listener = UnixListener;

    fn name(&self) -> &'static str {
        "abstract"
    }

    async fn bind(&self) -> io::Result<UnixListener> {
        let listener = StdListener::bind_addr(&SocketAddr::from_abstract_name(self.0)?)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    async fn accept(listener: &mut UnixListener) -> io::Result<Link> {
        Ok(Link::bytes(listener.accept().await?.0))
    }

    async fn connect(&self) -> io::Result<Link> {
        let stream = StdStream::connect_addr(&SocketAddr::from_abstract_name(self.0)?)?;
        stream.set_nonblocking(true)?;
        Ok(Link::bytes(UnixStream::from_std(stream)?))
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), TransportError> {
    let server = TransportServerBuilder::new().with_protocol(Abstract("trunkline-example")).build().await?;
    let echo = |mut session: Session| async move {
        session.serve_requests(|_, packet| async move { packet.reply(packet.payload.clone()) }).await
    };
    let client = TransportClientBuilder::new().with_protocol(Abstract("trunkline-example")).build().await?;
    let talk = async {
        client.connect().await?;
        println!("{}", client.request("over a protocol of our own").await?.payload_as_text_lossy());
        server.shutdown().await;
        Ok(())
    };
    tokio::try_join!(async { Ok(server.serve_with(echo).await?) }, talk).map(|_| ())
}
