//! An independent WebSocket implementation on the other side: tungstenite as client, then as server.

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use trunkline_transport::{
    ConnectError, ConnectOptions, Connection, Endpoint, Frame, FrameKind, Incoming, StreamOptions,
    WebSocketListener, WebSocketOptions, close, connect,
};

use crate::harness::{DEADLINE, loopback, pattern, within};

async fn tungstenite_client() -> (WebSocketStream<TcpStream>, Connection) {
    let options = WebSocketOptions { subprotocols: vec!["trunkline.v1".to_owned()], ..Default::default() };
    let mut listener = WebSocketListener::bind(loopback(), StreamOptions::default(), options).unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut request = tokio_tungstenite::tungstenite::ClientRequestBuilder::new(
            format!("ws://{address}/ws?token=1").parse().unwrap(),
        );
        request = request.with_header("Origin", "https://example.org").with_sub_protocol("trunkline.v1");
        client_async(request, stream).await.unwrap().0
    };
    let (client, server) = within(async { tokio::join!(connecting, listener.accept()) }).await;
    (client, server.unwrap())
}

async fn incoming(connection: &mut Connection) -> Incoming {
    within(connection.reader.next()).await.unwrap().expect("not the end")
}

#[tokio::test]
async fn tungstenite_as_client_exchanges_everything() {
    let (mut client, mut server) = tungstenite_client().await;
    assert_eq!(server.info.origin.as_deref(), Some("https://example.org"));
    assert_eq!(server.info.path.as_deref(), Some("/ws"));
    assert_eq!(server.info.query.as_deref(), Some("token=1"));
    assert_eq!(server.info.subprotocol.as_deref(), Some("trunkline.v1"));

    for length in [0, 1, 125, 126, 65535, 65536, 1 << 20] {
        let payload = pattern(length);
        let (sent, got) = within(async {
            tokio::join!(client.send(Message::Binary(payload.clone().into())), server.reader.next())
        })
        .await;
        sent.unwrap();
        let expected = Frame { kind: FrameKind::Binary, bytes: payload.clone().into() };
        assert_eq!(got.unwrap(), Some(Incoming::Frame(expected)));
        let (sent, got) =
            within(async { tokio::join!(server.writer.send(FrameKind::Binary, &payload), client.next()) })
                .await;
        sent.unwrap();
        assert_eq!(got.unwrap().unwrap(), Message::Binary(payload.into()));
    }

    client.send(Message::Text("grüße".into())).await.unwrap();
    let expected = Frame { kind: FrameKind::Text, bytes: "grüße".into() };
    assert_eq!(incoming(&mut server).await, Incoming::Frame(expected));
    server.writer.send(FrameKind::Text, "zurück".as_bytes()).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::Text("zurück".into()));

    client.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(incoming(&mut server).await, Incoming::Ping("are you there".into()));
    let pong = server.writer.framing().pong(b"are you there").unwrap();
    server.writer.write_all(&pong).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::Pong("are you there".into()));

    let ping = server.writer.framing().ping(b"and you").unwrap();
    server.writer.write_all(&ping).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::Ping("and you".into()));
    // tungstenite answers by itself.
    client.flush().await.unwrap();
    assert_eq!(incoming(&mut server).await, Incoming::Pong("and you".into()));

    let frame = server.writer.framing().close(4000, "drain").unwrap();
    server.writer.write_all(&frame).await.unwrap();
    let expected = CloseFrame { code: CloseCode::from(4000), reason: Utf8Bytes::from_static("drain") };
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::Close(Some(expected)));
    let closing = close(server.reader, server.writer, 4000, "drain", DEADLINE);
    let ending = async move {
        let end = client.next().await;
        assert!(end.is_none_or(|end| end.is_err()), "nothing follows a close");
    };
    within(async { tokio::join!(closing, ending) }).await;
}

#[tokio::test]
async fn our_client_talks_to_a_tungstenite_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::from_url(&format!("ws://{}/x", listener.local_addr().unwrap())).unwrap();
    let options = ConnectOptions::default();
    let serving = async { accept_async(listener.accept().await.unwrap().0).await.unwrap() };
    let (client, mut server) = within(async { tokio::join!(connect(&endpoint, &options), serving) }).await;
    let mut client = client.unwrap();

    for length in [0, 3, 125, 126, 70_000] {
        let payload = pattern(length);
        let (sent, got) =
            within(async { tokio::join!(client.writer.send(FrameKind::Binary, &payload), server.next()) })
                .await;
        sent.unwrap();
        assert_eq!(got.unwrap().unwrap(), Message::Binary(payload.clone().into()));
        server.send(Message::Binary(payload.clone().into())).await.unwrap();
        let expected = Frame { kind: FrameKind::Binary, bytes: payload.into() };
        assert_eq!(incoming(&mut client).await, Incoming::Frame(expected));
    }
    client.writer.send(FrameKind::Text, "grüße".as_bytes()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), Message::Text("grüße".into()));

    server.send(Message::Close(None)).await.unwrap();
    assert_eq!(incoming(&mut client).await, Incoming::Close { code: None, reason: String::new() });
    let answer = client.writer.framing().close(1005, "").unwrap();
    client.writer.write_all(&answer).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), Message::Close(None));
}

#[tokio::test]
async fn our_client_says_why_there_is_no_websocket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (answer, expected) in [
        ("HTTP/1.1 308 Permanent Redirect\r\nLocation: https://x/\r\n\r\n", "the server answered 308"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            "does not answer our key",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from_url(&format!("ws://{}/x", listener.local_addr().unwrap())).unwrap();
        let options = ConnectOptions::default();
        let serving = async {
            let mut stream = listener.accept().await.unwrap().0;
            let mut head = vec![0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let (refused, _stream) = within(async { tokio::join!(connect(&endpoint, &options), serving) }).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, ConnectError::WebSocket(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_answered_and_the_listener_lives() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut listener =
        WebSocketListener::bind(loopback(), StreamOptions::default(), WebSocketOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 "),
        ("complete nonsense\r\n\r\n", "HTTP/1.1 400 "),
        ("POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 405 "),
    ] {
        let asking = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = within(async {
            tokio::select! {
                answer = asking => answer,
                _ = listener.accept() => panic!("this is no WebSocket"),
            }
        })
        .await;
        assert!(answer.starts_with(status), "{answer}");
    }
    let endpoint = Endpoint::from_url(&format!("ws://{address}")).unwrap();
    let options = ConnectOptions::default();
    let (client, server) =
        within(async { tokio::join!(connect(&endpoint, &options), listener.accept()) }).await;
    client.unwrap();
    server.unwrap();
}
