//! MsgTrans' "新增协议支持" (adding a protocol): packets over Linux' abstract Unix sockets, which this library does not ship.
//!
//! Edits to the seed: its two configuration traits and its adapter are one trait; the server and the client are in one program.
#![allow(clippy::print_stdout, reason = "it is an example")]

#[cfg(target_os = "linux")]
mod linux {
    use std::io::Result;
    use tokio::net::{UnixListener, UnixStream};
    use trunkline_transport::{CustomProtocol, Link};

    pub(super) struct Abstract(pub(super) &'static str);

    impl CustomProtocol for Abstract {
        type Listener = UnixListener;

        fn name(&self) -> &'static str {
            "abstract"
        }

        async fn bind(&self) -> Result<UnixListener> {
            UnixListener::bind(self.0)
        }

        async fn accept(listener: &mut UnixListener) -> Result<Link> {
            Ok(Link::bytes(listener.accept().await?.0))
        }

        async fn connect(&self) -> Result<Link> {
            Ok(Link::bytes(UnixStream::connect(self.0).await?))
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::main]
pub(crate) async fn main() -> Result<(), trunkline_transport::TransportError> {
    use trunkline_transport::{Session, TransportClientBuilder, TransportServerBuilder};
    // A name that begins with a zero is one of no file.
    let protocol = || linux::Abstract("\0trunkline-example");
    let server = TransportServerBuilder::new().with_protocol(protocol()).build().await?;
    let client = TransportClientBuilder::new().with_protocol(protocol()).build().await?;
    let echo = |mut session: Session| async move {
        session.serve_requests(|_, packet| async move { packet.reply(packet.payload.clone()) }).await
    };
    let talk = async {
        client.connect().await?;
        println!("{}", client.request("over a protocol of our own").await?.payload_as_text_lossy());
        server.shutdown().await;
        Ok(())
    };
    tokio::try_join!(async { Ok(server.serve_with(echo).await?) }, talk).map(|_| ())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this protocol is Linux' own");
}
