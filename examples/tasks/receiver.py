#!/usr/bin/env python3
"""Receives the calls of HTTP tasks, verifies them, and answers.

    NOTIFY_SECRET=... python3 examples/tasks/receiver.py [PORT]
"""
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["NOTIFY_SECRET"].encode()
TOLERANCE = 300  # seconds that a signature may be old, or two clocks apart
answers = {}  # by idempotency key; a real receiver keeps them where its work is kept


def genuine(header, body):
    """Tells whether the body was signed with our secret, a short while ago."""
    fields = [field.split("=", 1) for field in header.split(",") if "=" in field]
    moment = next((value for name, value in fields if name == "t"), "")
    if not moment.isdecimal() or abs(time.time() - int(moment)) > TOLERANCE:
        return False
    want = hmac.new(SECRET, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return any(hmac.compare_digest(value.encode(), want.encode()) for name, value in fields if name == "v1")


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not genuine(self.headers.get("Stem-Signature", ""), body):
            return self.answer(401, "the signature is not ours\n")  # another attempt would not help
        key = self.headers["Idempotency-Key"]
        if key not in answers:  # the same task may come more than once
            print("received", self.headers["Stem-Task-Name"], body.decode(), flush=True)
            answers[key] = json.dumps({"received": json.loads(body), "number": len(answers) + 1})
        self.answer(200, answers[key])

    def answer(self, status, text):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8900), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}/notify", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
