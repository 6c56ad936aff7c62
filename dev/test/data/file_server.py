"""file_server.py FOLDER: a web server for tests of downloads, with the addresses of the Hugging Face Hub.

    /SITE/FILE                                        a file of FOLDER/SITE
    /SITE/datasets/OWNER/NAME/resolve/main/FILE       the file OWNER/NAME/FILE of it, after a redirect, as on the Hub
    /SITE/api/datasets/OWNER/NAME/tree/main[/PART]    a list of the files in OWNER/NAME/PART, three a page

Serves ranges. Misbehaves as SITE/faults/NAME says, one line for each request of a file NAME (the list: "tree"):

    fine              no fault
    status 429 2      this status, asking for a pause of 2 seconds if there is a number
    break 100         sends 100 bytes of what it should and closes the connection
    hold 100          sends 100 bytes and then nothing
    other 100         sends 100 other bytes, as a whole file
    whole             ignores that only a part was asked for

Prints its port, then writes each request to SITE/requests: the path, the first byte asked for, and the status.
"""

import hashlib
import http.server
import json
import os
import re
import sys

def next_fault(site, name):
    """Takes the first line off the list of faults."""
    path = os.path.join(site, "faults", name)
    if not os.path.exists(path):
        return ["fine"]
    with open(path) as file:
        lines = file.read().splitlines()
    with open(path, "w") as file:
        file.writelines(line + "\n" for line in lines[1:])
    return lines[0].split() if lines else ["fine"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        with open(os.path.join(self.site, "requests"), "a") as file:
            file.write(f"{self.address} {self.first} {status}\n")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        path = sys.argv[1] + self.path
        self.send_response(200 if os.path.isfile(path) else 404)
        self.send_header("Content-Length", str(os.path.getsize(path) if os.path.isfile(path) else 0))
        self.end_headers()

    def do_GET(self):
        wanted = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        self.first = int(wanted[1]) if wanted else 0
        site, self.address = re.match(r"(/[^/]*)(.*)", self.path).groups()
        self.site = sys.argv[1] + site
        if listing := re.match(r"/api/datasets/([^/]+/[^/]+)/tree/main/?([^?]*)(?:\?cursor=(\d+))?$", self.address):
            self.send_list(os.path.join(self.site, listing[1]), listing[2], int(listing[3] or 0))
        elif remote := re.match(r"/datasets/(.*)/resolve/main/(.*)$", self.address):
            self.answer(302, headers=[("Location", f"{site}/{remote[1]}/{remote[2]}")])
        else:
            self.send_file(self.site + self.address)

    def faulty(self, fault):
        """Answers with an error, where that is the fault."""
        if fault[0] != "status":
            return False
        self.answer(int(fault[1]), b"an error page", [("Retry-After", seconds) for seconds in fault[2:]])
        return True

    def send_list(self, folder, part, first):
        if self.faulty(next_fault(self.site, "tree")):
            return
        if not os.path.isdir(os.path.join(folder, part)):
            self.answer(404, b"{}")
            return
        names = sorted(os.listdir(os.path.join(folder, part)), reverse=True)
        entries = []
        for name in names[first : first + 3]:
            path = os.path.join(folder, part, name)
            entry = {"type": "directory" if os.path.isdir(path) else "file", "path": os.path.join(part, name)}
            if entry["type"] == "file":
                with open(path, "rb") as file:
                    data = file.read()
                entry["size"] = len(data)
                if not name.endswith(".md"):
                    entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
            entries.append(entry)
        headers = []
        if first + 3 < len(names):
            address = f"http://{self.headers['Host']}{self.path.split('?')[0]}?cursor={first + 3}"
            headers.append(("Link", f'<{address}>; rel="next"'))
        self.answer(200, json.dumps(entries).encode(), headers)

    def send_file(self, path):
        fault = next_fault(self.site, os.path.basename(path))
        if self.faulty(fault):
            return
        if not os.path.isfile(path):
            self.answer(404, b"there is no such file")
            return
        with open(path, "rb") as file:
            data = file.read()
        if fault[0] == "other":
            data = b"x" * int(fault[1])
        first = 0 if fault[0] == "whole" else self.first
        if first and first >= len(data):
            self.answer(416, headers=[("Content-Range", f"bytes */{len(data)}")])
            return
        part = data[first:]
        headers = [("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")] if first else []
        if fault[0] in ("break", "hold"):
            self.answer(206 if first else 200, part[: int(fault[1])], headers, len(part))
            if fault[0] == "hold":
                self.wfile.flush()
                self.connection.recv(1)  # until the other side ends
            self.close_connection = True
            return
        self.answer(206 if first else 200, part, headers)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
