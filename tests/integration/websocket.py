"""A WebSocket client (RFC 6455) on a socket: frames as one likes, also such as no decent client sends."""
import base64
import os
import socket
import ssl
import struct
import threading

from waiting import wait_until

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(payload, opcode=BINARY, final=True, masked=True, reserved=0, length=None):
    """length: "16" or "64" forces that form."""
    n, mask = len(payload), os.urandom(4)
    head = bytes([(128 if final else 0) | reserved | opcode])
    bit = 128 if masked else 0
    if length == "64" or (n > 65535 and not length):
        head += bytes([bit | 127]) + struct.pack(">Q", n)
    elif length == "16" or (n > 125 and not length):
        head += bytes([bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([bit | n])
    if not masked:
        return head + payload
    return head + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(payload))


class Web:
    """Connects and asks for the upgrade; `answer` is the head of what the server said."""

    def __init__(self, port, path="/mqtt", ca=None, request=None, **headers):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        if ca:
            self.sock = ssl.create_default_context(cafile=ca).wrap_socket(self.sock, server_hostname="127.0.0.1")
        fields = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "keep-alive, Upgrade",
                  "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(), "Sec-WebSocket-Version": "13",
                  "Sec-WebSocket-Protocol": "mqtt", **{k.replace("_", "-"): v for k, v in headers.items()}}
        head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items() if v is not None) + "\r\n"
        self.sock.sendall(head.encode() if request is None else request)
        data = b""
        while b"\r\n\r\n" not in data and (chunk := self.sock.recv(4096)):
            data += chunk
        self.answer, _, self.data = data.partition(b"\r\n\r\n")
        self.status = int(self.answer.split()[1]) if self.answer else None
        self.frames, self.over = [], threading.Event()
        if self.status == 101:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            while True:
                while (taken := self._cut()) is not None:
                    self.frames.append(taken)
                chunk = self.sock.recv(65536)
                if not chunk:
                    break
                self.data += chunk
        except OSError:
            pass
        self.over.set()

    def _cut(self):
        if len(self.data) < 2:
            return None
        n, at = self.data[1], 2
        assert not n & 128, "a server does not mask"
        if n == 126:
            n, at = struct.unpack(">H", self.data[2:4].ljust(2, b"\0"))[0], 4
        elif n == 127:
            n, at = struct.unpack(">Q", self.data[2:10].ljust(8, b"\0"))[0], 10
        if len(self.data) < at + n:
            return None
        got = (self.data[0] & 15, self.data[at:at + n])
        self.data = self.data[at + n:]
        return got

    def send(self, payload, **how):
        self.sock.sendall(frame(payload, **how))

    def take(self, opcode=BINARY):
        def found():
            for i, f in enumerate(self.frames):
                if f[0] == opcode:
                    return self.frames.pop(i)[1]
        return wait_until(lambda: (f := found()) is not None and (f,), 10, 0.005, f"a frame {opcode}; {self.frames}")[0]

    def closed(self):
        """The code of the server's Close, after which it ends the connection."""
        code = struct.unpack(">H", self.take(CLOSE)[:2])[0]
        wait_until(self.over.is_set, 10, 0.01, "the server ends the connection")
        return code

    def close(self):
        self.sock.close()
