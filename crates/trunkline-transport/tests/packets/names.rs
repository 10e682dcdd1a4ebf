//! The page for those who come from MsgTrans has each name that it published.

/// The public items of `msgtrans` 2.0.0-beta.3, of its `spi`, and what the servers and clients of it and of the document are
/// asked to do.
const PUBLISHED: &str = "
    BroadcastReport ClientEvent ClientEvents ClientLimits ClientMessage ClientRequest ClientTls CloseReason CompressionType
    ConnectionInfo ConnectionLimits ConnectionState DEFAULT_MAX_FRAME_SIZE DecodeLimits FramePolicy Packet PacketError PacketId
    PacketType PinnedSpkiVerification QuicClientConfig QuicServerConfig RequestOptions ReservedFlags RespondOutcome Responder
    Result RetryConfig SendOptions SendReceipt ServerLimits SessionHandler SessionId SessionSender ShutdownReport
    TcpClientConfig TcpServerConfig TransportClient TransportClientBuilder TransportConfig TransportError TransportEvent
    TransportServer TransportServerBuilder WS_SUBPROTOCOL_MSGTRANS WebSocketClientConfig WebSocketServerConfig
    spki_sha256_base64 validate_server_tls_material

    ConfigError Connection ConnectionEvents ConnectionWriter DynClientConfig DynProtocolConfig DynServerConfig EventSink Server
    WriteCompletion event_channel

    active_sessions broadcast close_all_sessions close_session force_close_session remove_session request
    request_with_options send send_with_options serve session_count should_ignore_messages shutdown shutdown_with_timeout stop
    on_connected on_disconnected on_error on_message on_message_sent on_request respond respond_detached respond_with_options
    send_data send_data_detached send_data_with_options
    connect current_session_id disconnect events force_disconnect is_connected send_detached try_next
    actor_buffer_size frame_policy limits max_connections protocol retry_strategy transport_config
    backoff_multiplier exponential_backoff max_delay max_retries

    AcceptorConfig AuthMiddleware ConnectionPoolConfig LoggingMiddleware ProtocolAdapter ProtocolConfig RateLimiterConfig
    ServerMiddleware connect_timeout get_stats graceful_shutdown rate_limiter send_to with_middleware with_protocol";

#[test]
fn the_page_for_those_who_come_from_msgtrans_has_each_published_name() {
    let page = include_str!("../../docs/msgtrans.md");
    let mut theirs = String::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        theirs += row.split(" | ").next().unwrap();
        theirs.push('\n');
    }
    let named: Vec<_> = theirs.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = PUBLISHED.split_whitespace().filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "docs/msgtrans.md says nothing of {missing:?}");
}
