"""A client of the matrix, as matrix.mjs is: matrix.py KIND HOST PORT ROOT.PEM KEY"""
import http.client
import os
import platform
import socket
import ssl
import sys
import threading
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))

kind, host, port, ca, key = sys.argv[1:]
base = "https://%s:%s/x" % (host, port)
address = "-"
real = socket.getaddrinfo


def look(name):
    if name == host and address != "-":
        return [address]
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def getaddrinfo(name, *args, **more):
    return real(look(name)[0] if name == host else name, *args, **more)


socket.getaddrinfo = getaddrinfo


def headers(method):
    return {"X-Api-Key": key, **({"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {})}


def body(method):
    return b'{"a":1}' if method == "POST" else None


def client():
    if kind == "requests":
        import requests
        session = requests.Session()
        session.trust_env, session.verify = False, ca

        def call(method):
            res = session.request(method, base, data=body(method), headers=headers(method), timeout=50)
            return res.status_code, res.text
    elif kind == "urllib3":
        import urllib3
        pool = urllib3.PoolManager(ca_certs=ca, timeout=50)

        def call(method):
            res = pool.request(method, base, body=body(method), headers=headers(method))
            return res.status, res.data.decode()
    elif kind == "http.client":
        conn = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=ca), timeout=50)

        def call(method):
            try:
                conn.request(method, "/x", body=body(method), headers=headers(method))
                res = conn.getresponse()
                return res.status, res.read().decode()
            except Exception:
                conn.close()
                raise
    else:
        import postern
        home = postern.Postern(["%s:%s" % (host, port)], api_key=key, ca_file=ca, lookup=look, timeout=50.0, connect_timeout=10.0)

        def call(method):
            res = home.call(method, "/x", body=body(method))
            return res.status, res.text()
    return call


def label():
    python = "Python %s" % platform.python_version()
    if kind == "requests":
        import requests
        return "%s requests %s" % (python, requests.__version__)
    if kind == "urllib3":
        import urllib3
        return "%s urllib3 %s" % (python, urllib3.__version__)
    return "clients/python, " + python if kind == "helper" else python + " http.client"


def lane(errors, i, method, call):
    try:
        status, text = call(method)
        errors[i] = "" if (status, text) == (200, method + " done") else "%d %s" % (status, text)
    except Exception as err:
        errors[i] = "%s: %s" % (type(err).__name__, err)


print(label(), flush=True)
clients = []
for line in sys.stdin:
    begin, address, n = line.split()
    if begin == "new":
        clients = [(method, client()) for method in ("GET", "POST") for _ in range(int(n))]
    errors = [None] * len(clients)
    threads = [threading.Thread(target=lane, args=(errors, i, *c), daemon=True) for i, c in enumerate(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print("\t".join(" ".join(e.split()) for e in errors), flush=True)
