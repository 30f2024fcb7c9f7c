"""Calls to a house behind postern, from a Lambda function or anywhere else.

One file, the standard library alone, Python 3.9 or newer. docs/callers.md
tells how it finds the house and what is sent again when.

    from postern import Postern
    home = Postern(["mypi.duckdns.org"], aws={"audience": "https://mypi.duckdns.org"})

    def handler(event, context):
        return home.call("POST", "/orders", body=event, context=context).json()

For requests and urllib3 there are `requests_adapter` and `urllib3_pool`.
"""
import base64
import datetime
import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.parse
import uuid

CONNECT = 1.0  # seconds for a look-up, and for a TCP connection
HANDSHAKE = 3.0
IDLE = 50.0  # a connection idle for longer may have died unseen
PASS_OVER = 30.0  # a name that failed is asked last for so long
FETCH_AGAIN = 5.0  # the least time between two looks at the endpoint document
MAX_DOCUMENT = 64 << 10
MAX_IDLE = 10  # connections kept

_SAFE = ("GET", "HEAD", "OPTIONS")
_IDEMPOTENT = _SAFE + ("PUT", "DELETE")


class PosternError(Exception):
    """Finding or reaching the house came to nothing; __cause__ says why."""


class Response:
    """An answer of the house, whatever its status."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


def sign(method, host, path, headers=None, body=b"", *, key_id, secret, session=None, region, service, now=None, double_path=True):
    """Returns headers with an AWS Signature Version 4 added. All are signed.
    double_path is False for S3 alone."""
    date = (now or datetime.datetime.now(datetime.timezone.utc)).strftime("%Y%m%dT%H%M%SZ")
    out = {k.lower(): re.sub(" +", " ", str(v).strip()) for k, v in (headers or {}).items()}
    out.update({"host": host, "x-amz-date": date, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()})
    if session:
        out["x-amz-security-token"] = session
    names = sorted(out)
    raw, _, query = path.partition("?")
    pairs = [(_escape(k), _escape(v)) for k, v in urllib.parse.parse_qsl(query, keep_blank_values=True)]
    canonical = "\n".join([method, urllib.parse.quote(raw, safe="/-._~") if double_path else raw,
                           "&".join(k + "=" + v for k, v in sorted(pairs)),
                           *(n + ":" + out[n] for n in names), "", ";".join(names), out["x-amz-content-sha256"]])
    scope = "%s/%s/%s/aws4_request" % (date[:8], region, service)
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + secret.encode()
    for part in scope.split("/") + [text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    del out["host"]
    out["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (key_id, scope, ";".join(names), key.hex())
    return out


def _escape(s):
    return urllib.parse.quote(s, safe="-._~")


class _Way:
    """An address, and the name that its certificate is checked for."""

    def __init__(self, name, host, port, asked=None, base="", found=False, transient=False):
        self.name, self.host, self.port = name, host, port
        self.asked = port if asked is None else asked  # the port that Host says
        self.base, self.found, self.transient = base, found, transient

    def key(self):
        return self.name, self.host, self.port

    def at(self, host, **more):
        return _Way(**{**self.__dict__, "host": host, **more})

    def authority(self):
        return self.name if self.asked == 443 else "%s:%d" % (self.name, self.asked)


def _split(name):
    host, _, port = name.partition(":")
    return _Way(host, host, int(port or 443))


class _Connection(http.client.HTTPConnection):
    """Connects to the address of a way under its name."""

    def __init__(self, way, context, connect, deadline):
        super().__init__(way.host, way.port)
        self.way, self._context, self._connect_for, self._deadline = way, context, connect, deadline
        self.usable = False  # the handshake is done
        self.used = 0
        self.idle_since = None

    def connect(self):
        left = self._deadline - time.monotonic()
        sock = socket.create_connection((self.way.host, self.way.port), max(0.001, min(self._connect_for, left)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.settimeout(max(0.001, min(HANDSHAKE, self._deadline - time.monotonic())))
            self.sock = self._context.wrap_socket(sock, server_hostname=self.way.name)
        except BaseException:
            sock.close()
            raise
        self.usable = True

    def alive(self):
        """Nothing has come since the last answer, not even an end."""
        if time.time() - self.idle_since > IDLE:
            return False
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except (OSError, ValueError):
            return False
        return False


class Postern:
    """A house behind postern. Safe for several threads.

    names           host names of the house, the preferred one first; name:port where it is not 443
    aws             {"audience": ...}: prove who we are with a web-identity token of AWS
    signature       {"key_id": ..., "secret": ...}: or with signed requests
    api_key         or with an API key
    endpoint        where the endpoint document is: {"ssm": {"parameter": ...}}, {"s3": {"bucket": ..., "key": ...}} or {"url": ...}
    relay           the last way: host:port that passes TLS on to the house, or an https URL with a name of its own
    address         an address to begin with, before any other is known
    ca_file         PEM roots to trust for the house; None: the system's
    lookup          how names are looked up: name -> addresses; None: as the system does
    timeout         seconds for a call without a Lambda context
    connect_timeout seconds for each look-up and each connection
    """

    def __init__(self, names, *, aws=None, signature=None, api_key=None, endpoint=None, relay=None, address=None,
                 ca_file=None, lookup=None, timeout=10.0, connect_timeout=CONNECT):
        if not names or isinstance(names, str):
            raise TypeError("postern: names is %r, want a list of the host names of the house" % (names,))
        self.names = [_split(n) for n in names]
        self._aws, self._signature, self._api_key = aws, signature, api_key
        self._endpoint, self._relay, self._lookup_with = endpoint, relay, lookup
        self._timeout, self._connect = timeout, connect_timeout
        self._context = ssl.create_default_context(cafile=ca_file)
        self._context.set_alpn_protocols(["http/1.1"])
        self._lock = threading.Lock()
        self._idle, self._failed = [], {}  # guarded by _lock, and so is the rest
        self._good = self.names[0].at(address) if address else None
        self._doc, self._doc_at = None, None
        self._token, self._token_until = None, 0
        self._invocation = (None, 0)

    def close(self):
        """Closes idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for conn in idle:
            conn.close()

    def call(self, method, path, body=None, headers=None, context=None, timeout=None):
        """Sends one request and returns a Response. body may be bytes, text,
        or anything else that becomes JSON. context is Lambda's: its remaining
        time bounds the call, its request id becomes the Idempotency-Key."""
        method, headers = method.upper(), {k.lower(): v for k, v in (headers or {}).items()}
        if timeout is None:
            timeout = self._timeout if context is None else context.get_remaining_time_in_millis() / 1000 - 0.15
        if body is None:
            body = b""
        elif isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        if method not in _SAFE:
            headers.setdefault("idempotency-key", self._key(context))
        call = _Call(method, path, headers, bytes(body), time.monotonic() + timeout)
        tokens, waits = 1, 2
        while True:
            res = self._any_way(call)
            if res.status == 401 and self._aws and tokens:
                tokens -= 1
                with self._lock:
                    self._token = None
                continue
            wait = _retry_after(res.headers.get("retry-after")) if res.status in (429, 503) else None
            if wait is None or not waits or time.monotonic() + wait + self._connect > call.deadline:
                return res
            waits -= 1
            time.sleep(wait)

    def _key(self, context):
        """The same for every repetition of an invocation, another for each
        call in it."""
        request = getattr(context, "aws_request_id", None)
        if not request:
            return str(uuid.uuid4())
        with self._lock:
            last, n = self._invocation
            n = n + 1 if last == request else 1
            self._invocation = (request, n)
        return request if n == 1 else "%s-%d" % (request, n)

    def _any_way(self, call):
        last = None
        for way in self._ways(call):
            if time.monotonic() >= call.deadline:
                break
            try:
                return self._send(call, way)
            except _Unreached as err:
                last = err.__cause__ or err
        raise PosternError("%s %s%s: no way to the house worked: %s" % (call.method, self.names[0].name, call.path, last or "no time left")) from last

    def _ways(self, call):
        """The ways to the house, cheap ones first."""
        tried = set()

        def fresh(way):
            if way.key() in tried:
                return False
            tried.add(way.key())
            return True

        def by_name(want_ill):
            for w in self.names:
                with self._lock:
                    ill = time.time() - self._failed.get(w.name, 0) < PASS_OVER
                if ill == want_ill and w.name not in asked:
                    asked.add(w.name)
                    for host in self._lookup(w.name, call.deadline):
                        way = w.at(host, found=True)
                        if fresh(way):
                            yield way

        asked = set()
        with self._lock:
            idle, good = (self._idle[-1].way if self._idle else None), self._good
        if idle and fresh(idle):
            yield idle
        yield from by_name(False)
        if good and fresh(good):
            yield good
        for way in self._published(call.deadline):
            if fresh(way):
                yield way
        yield from by_name(True)
        if self._relay:
            yield from self._relays(call.deadline)

    def _relays(self, deadline):
        home = self.names[0]
        if self._relay.startswith("https://"):
            u = urllib.parse.urlsplit(self._relay)
            at = _Way(u.hostname, u.hostname, u.port or 443, base=u.path.rstrip("/"), transient=True)
            for host in self._lookup(at.name, deadline):
                yield at.at(host)
            return
        at = _split(self._relay)
        for host in self._lookup(at.name, deadline):
            yield home.at(host, port=at.port, transient=True)

    def _lookup(self, name, deadline):
        """Looks a name up in a thread: the system's resolver has no time-out."""
        try:
            ipaddress.ip_address(name)
            return [name]
        except ValueError:
            pass
        found = []

        def look():
            try:
                if self._lookup_with:
                    found.extend(self._lookup_with(name))
                else:
                    found.extend(dict.fromkeys(a[4][0] for a in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
            except OSError:
                pass

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(max(0, min(self._connect, deadline - time.monotonic())))
        if not found:
            self._ill(name)
        return found[:4]

    def _ill(self, name):
        with self._lock:
            self._failed[name] = time.time()

    def _published(self, deadline):
        """The addresses of the endpoint document, fetched when needed."""
        if not self._endpoint:
            return []
        with self._lock:
            due = self._doc_at is None or time.time() - self._doc_at > FETCH_AGAIN
            if due:
                self._doc_at = time.time()
        if due:
            try:
                doc = json.loads(_fetch_document(self._endpoint, deadline))
                with self._lock:
                    self._doc = doc
            except (PosternError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                pass  # the one we have may still be right
        with self._lock:
            doc = self._doc
        if not isinstance(doc, dict):
            return []
        names, port, out = doc.get("names") or [], doc.get("port"), []
        home = next((w for w in self.names if w.name in names), self.names[0])
        for host in (doc.get("ipv4"), doc.get("ipv6")):
            try:
                ipaddress.ip_address(host)
            except ValueError:
                continue
            out.append(home.at(host, port=port if isinstance(port, int) and 0 < port < 65536 else home.port))
        return out

    def _take(self, way):
        """An idle connection for the way's name, if there is one that lives."""
        while True:
            with self._lock:
                at = next((i for i in reversed(range(len(self._idle))) if self._idle[i].way.authority() == way.authority()), None)
                conn = None if at is None else self._idle.pop(at)
            if conn is None or conn.alive():
                return conn
            conn.close()

    def _give(self, conn):
        conn.idle_since = time.time()
        with self._lock:
            self._idle.append(conn)
            old = self._idle.pop(0) if len(self._idle) > MAX_IDLE else None
        if old:
            old.close()

    def _send(self, call, way):
        headers = self._headers(call, way)
        conn = self._take(way) or _Connection(way, self._context, self._connect, call.deadline)
        reused, begun = conn.used > 0, False
        try:
            if conn.sock is None:
                conn.connect()
            conn.sock.settimeout(max(0.001, call.deadline - time.monotonic()))
            conn.putrequest(call.method, way.base + call.path, skip_host=True, skip_accept_encoding=True)
            conn.putheader("Host", way.authority())
            for name, value in headers.items():
                conn.putheader(name, value)
            conn.endheaders(call.body or None)
            raw = conn.getresponse()
            begun = True
            body = raw.read()
        except (OSError, http.client.HTTPException) as err:
            conn.close()
            if not conn.usable:  # nothing was sent
                if way.found:
                    self._ill(way.name)
                raise _Unreached() from err
            late = isinstance(err, (socket.timeout, TimeoutError))
            if begun or late or not (reused or call.method in _IDEMPOTENT) or not call.retries:
                raise PosternError("%s %s%s: %s:%d: %s" % (call.method, way.name, call.path, way.host, way.port, err or type(err).__name__)) from err
            call.retries -= 1
            self.close()  # a kept connection died: the others of its age may have too
            return self._send(call, way)
        conn.used += 1
        with self._lock:
            if not way.transient:
                self._good = conn.way
            if way.found:
                self._failed.pop(way.name, None)
        if raw.will_close:
            conn.close()
        else:
            self._give(conn)
        return Response(raw.status, raw.headers, body)

    def _headers(self, call, way):
        headers = dict(call.headers)
        if self._aws:
            headers["authorization"] = "Bearer " + self.token(call.deadline)
        elif self._api_key:
            headers["authorization"] = "Bearer " + self._api_key
        elif self._signature:
            # Each attempt is another request.
            headers["x-postern-nonce"] = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
            headers = sign(call.method, way.authority(), way.base + call.path, headers, call.body,
                           key_id=self._signature["key_id"], secret=self._signature["secret"], region="home", service="postern")
        if call.body or call.method not in _SAFE:
            headers["content-length"] = str(len(call.body))
        return headers

    def token(self, deadline=None):
        """Returns a web-identity token of AWS, kept until shortly before it
        expires."""
        with self._lock:
            if self._token and time.time() < self._token_until:
                return self._token
        body = urllib.parse.urlencode({"Action": "GetWebIdentityToken", "Version": "2011-06-15", "Audience.member.1": self._aws["audience"],
                                       "SigningAlgorithm": "RS256", "DurationSeconds": "900"}).encode()
        try:
            text = _aws_call("sts", self._aws.get("region"), "POST", "/", body, {"content-type": "application/x-www-form-urlencoded"},
                             deadline or time.monotonic() + self._timeout).decode()
        except (OSError, http.client.HTTPException) as err:
            raise PosternError("STS: %s" % err) from err
        jwt, exp = re.search("<WebIdentityToken>([^<]+)<", text), re.search("<Expiration>([^<]+)<", text)
        if not jwt or not exp:
            raise PosternError("STS answered without a token")
        until = datetime.datetime.strptime(exp[1][:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=datetime.timezone.utc).timestamp()
        with self._lock:
            # A clock of ours that is wrong must not make a good token look old.
            self._token, self._token_until = jwt[1], max(until - 60, time.time() + 30)
            return self._token

    # Adapters

    def address(self):
        """Returns (host, port, name) of a way that connects now: for clients
        that make their own connections."""
        call = _Call("GET", "/", {}, b"", time.monotonic() + self._timeout)
        last = None
        for way in self._ways(call):
            conn = _Connection(way, self._context, self._connect, call.deadline)
            try:
                conn.connect()
                conn.close()
                with self._lock:
                    self._good = way
                return way.host, way.port, way.name
            except OSError as err:
                last = err
        raise PosternError("no way to the house worked: %s" % last) from last


class _Unreached(Exception):
    """Nothing was sent; another way may be tried."""


class _Call:
    def __init__(self, method, path, headers, body, deadline):
        self.method, self.path, self.headers, self.body, self.deadline = method, path, headers, body, deadline
        self.retries = 1


def _retry_after(value):
    """Seconds or a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    if value.isdigit():
        return int(value)
    try:
        import email.utils
        return max(0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _fetch_document(where, deadline):
    if "ssm" in where:
        text = _aws_call("ssm", where["ssm"].get("region"), "POST", "/", json.dumps({"Name": where["ssm"]["parameter"]}).encode(),
                         {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameter"}, deadline)
        return json.loads(text)["Parameter"]["Value"]
    if "s3" in where:
        s3 = where["s3"]
        return _aws_call("s3", s3.get("region"), "GET", "/" + urllib.parse.quote(s3["key"], safe="/-._~"), b"", {}, deadline, s3["bucket"])
    return _plain(where["url"], "GET", {}, b"", deadline)


def _aws_call(service, region, method, path, body, headers, deadline, bucket=None):
    """One signed call to AWS, with the key that Lambda puts into the
    environment. AWS_ENDPOINT_URL_<SERVICE> and AWS_ENDPOINT_URL work as in
    AWS's own SDKs."""
    env = os.environ
    region = region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    base = env.get("AWS_ENDPOINT_URL_" + service.upper()) or env.get("AWS_ENDPOINT_URL")
    if base is None:
        own = bucket and "." not in bucket
        base = "https://%s%s.%s.amazonaws.com" % (bucket + "." if own else "", service, region)
        bucket = None if own else bucket
    if bucket:
        path = "/" + bucket + path
    headers = sign(method, urllib.parse.urlsplit(base).netloc, path, headers, body, region=region, service=service, double_path=service != "s3",
                   key_id=env.get("AWS_ACCESS_KEY_ID", ""), secret=env.get("AWS_SECRET_ACCESS_KEY", ""), session=env.get("AWS_SESSION_TOKEN"))
    return _plain(base.rstrip("/") + path, method, headers, body, deadline)


def _plain(url, method, headers, body, deadline):
    u = urllib.parse.urlsplit(url)
    wait = max(0.001, min(3.0, deadline - time.monotonic()))
    if u.scheme == "https":
        conn = http.client.HTTPSConnection(u.netloc, timeout=wait, context=ssl.create_default_context())
    else:
        conn = http.client.HTTPConnection(u.netloc, timeout=wait)
    try:
        conn.request(method, u.path + ("?" + u.query if u.query else "") or "/", body or None, headers)
        res = conn.getresponse()
        data = res.read(MAX_DOCUMENT + 1)
    finally:
        conn.close()
    if len(data) > MAX_DOCUMENT:
        raise PosternError("%s: answer too long" % u.netloc)
    if res.status != 200:
        code = re.search(rb'<Code>(\w+)<|"__type":"[^"]*?(\w+)"', data)
        raise PosternError("%s answered %d %s" % (u.netloc, res.status, (code[1] or code[2]).decode() if code else ""))
    return data


def urllib3_pool(home, **options):
    """A urllib3 connection pool to the house under its name, at an address
    that works now. Make it again when it does not any more."""
    import urllib3
    host, port, name = home.address()
    options.setdefault("timeout", urllib3.Timeout(connect=home._connect, read=home._timeout))
    options.setdefault("headers", {"Host": name if port == 443 else "%s:%d" % (name, home.names[0].asked)})
    return urllib3.HTTPSConnectionPool(host, port, server_hostname=name, assert_hostname=name, ssl_context=home._context, **options)


def requests_adapter(home):
    """An adapter for requests: session.mount("https://mypi.duckdns.org/",
    requests_adapter(home)). Requests to the names of the house go through
    home.call: all its ways, its retry and its proof of who we are."""
    import requests
    from requests.adapters import BaseAdapter

    class Adapter(BaseAdapter):
        def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
            body = request.body
            if body is not None and not isinstance(body, (bytes, str)):
                body = b"".join(body) if not hasattr(body, "read") else body.read()
            total = sum(t or 0 for t in timeout) if isinstance(timeout, tuple) else timeout
            headers = {k: v for k, v in request.headers.items() if k.lower() not in ("content-length", "connection", "accept-encoding", "transfer-encoding")}
            try:
                got = home.call(request.method, request.path_url, body=body, headers=headers, timeout=total)
            except PosternError as err:
                raise requests.exceptions.ConnectionError(err, request=request) from err
            res = requests.Response()
            res.status_code, res.headers = got.status, requests.structures.CaseInsensitiveDict(got.headers)
            res._content, res.url, res.request = got.body, request.url, request
            res.encoding = requests.utils.get_encoding_from_headers(res.headers)
            return res

        def close(self):
            home.close()

    return Adapter()
