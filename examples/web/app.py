"""A web server that greets: the name from the environment, the host it runs on, and how often it was asked."""

import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Greeter(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Greeter.asked += 1
        text = "Hello {}!\nHostname: {}\nVisits: {}\n".format(
            os.environ.get("NAME", "nobody"), socket.gethostname(), Greeter.asked
        )
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        print(self.address_string(), format % args, flush=True)


# As process 1 of a container it gets no default action for SIGTERM.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("listening on port 80", flush=True)
HTTPServer(("", 80), Greeter).serve_forever()
