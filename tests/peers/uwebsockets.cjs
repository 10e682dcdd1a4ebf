// A room of uWebSockets for comparison: what comes on a connection to /publish goes to all that connected to /subscribe.
// It prints its port. The package lies where NODE_PATH says.
const uws = require('uwebsockets');

const room = {
  compression: uws.DISABLED,
  idleTimeout: 0,
  sendPingsAutomatically: false,
  maxPayloadLength: 16 << 20,
  // Nobody may be dropped or closed for being slow: every publication is counted.
  maxBackpressure: 0,
};

const app = uws.App();
app
  .ws('/subscribe', { ...room, open: (socket) => socket.subscribe('bench') })
  .ws('/publish', { ...room, message: (_, data, isBinary) => app.publish('bench', data, isBinary) })
  .listen('127.0.0.1', 0, (listening) => {
    if (!listening) process.exit(1);
    console.log(uws.us_socket_local_port(listening));
  });
