"""report_server.py: serves the page of report.sh on this machine, and the runs that have changed since. A reader starts
at watch(). What the page holds is in report_page.py."""
import errno
import http.server
import re
import sys
import threading
import time
import urllib.parse

import report_page


class Server(http.server.ThreadingHTTPServer):
    """Serves the page and its updates on this machine alone."""

    daemon_threads = True

    def __init__(self, port, runs):
        super().__init__(("127.0.0.1", port), Handler)
        self.runs = runs
        self.lock = threading.Lock()
        self.next_refresh = 0.0

    def refreshed(self):
        """The runs as they are now. Reading takes at most a tenth of the time."""
        if time.monotonic() >= self.next_refresh:
            begun = time.monotonic()
            self.runs.refresh()
            took = time.monotonic() - begun
            self.next_refresh = time.monotonic() + max(1.0, 10 * took)
        return self.runs

    def handle_error(self, request, client_address):
        """A browser that has gone away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # A request with another name comes from a page elsewhere whose name points to this machine.
        if (self.headers.get("Host") or "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403)
            return
        address = urllib.parse.urlsplit(self.path)
        with self.server.lock:
            runs = self.server.refreshed()
            if address.path == "/":
                kind, text = "text/html", report_page.page(report_page.whole_data(runs, live=True))
            elif address.path == "/data":
                since = urllib.parse.parse_qs(address.query).get("since", ["0"])[0]
                update = runs.page_data(int(since) if re.fullmatch("[0-9]{1,15}", since) else 0)
                kind, text = "application/json", report_page.json_for_html(update)
            else:
                kind, text = None, None
        if kind is None:
            self.send_error(404)
            return
        body = text.encode("utf-8")
        self.send_response(200)
        self.send_header("Content-Type", kind + "; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def watch(runs, port):
    try:
        server = Server(port, runs)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = f"port {port} is in use; give another --port=N, or none for a free one"
        else:
            what = f"cannot listen on port {port}: {error.strerror}; give another --port=N"
        raise report_page.ReportError(what) from None
    print(f"http://127.0.0.1:{server.server_address[1]}/ follows the runs until Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
