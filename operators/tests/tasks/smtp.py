"""An SMTP server for tests: aiosmtpd with STARTTLS and a login.

Arguments: port, folder. Writes each message it takes to FOLDER/N.eml, its
recipients in `x-rcpt`; makes FOLDER/ca.pem, the authority of its certificate.
A recipient `refused@…` is never taken, `later@…` not at the first try;
`FOLDER/plain` makes it a server without TLS and login.
"""
import asyncio, datetime, ipaddress, logging, os, ssl, sys, warnings
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

logging.disable()
warnings.simplefilter("ignore")
port, folder = int(sys.argv[1]), sys.argv[2]

class Handler:
    count = 0
    tries = 0
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 no such mailbox"
        if address.startswith("later@"):
            Handler.tries += 1
            if Handler.tries == 1:
                return "451 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"
    async def handle_DATA(self, server, session, envelope):
        Handler.count += 1
        path = os.path.join(folder, f"{Handler.count}.eml")
        with open(path + ".new", "wb") as out:
            out.write(b"x-rcpt: " + ",".join(envelope.rcpt_tos).encode() + b"\r\n" + envelope.content)
        os.rename(path + ".new", path)
        return "250 taken"

def login(server, session, envelope, mechanism, data):
    good = mechanism in ("PLAIN", "LOGIN") and (data.login, data.password) == (b"shift", b"s3cret")
    return AuthResult(success=good, handled=False)

def certificate():
    now = datetime.datetime.now(datetime.timezone.utc)
    def make(name, issuer, key, issuer_key, ca):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if not ca:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())
    named = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = make(named("plant authority"), named("plant authority"), ca_key, ca_key, True)
    own = make(named("localhost"), named("plant authority"), key, ca_key, False)
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    with open(os.path.join(folder, "ca.pem"), "wb") as out:
        out.write(ca.public_bytes(pem))
    chain = os.path.join(folder, "own.pem")
    with open(chain, "wb") as out:
        out.write(key.private_bytes(pem, plain[1], plain[0]) + own.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return context

async def main():
    loop = asyncio.get_running_loop()
    handler = Handler()
    secure = not os.path.exists(os.path.join(folder, "plain"))
    tls = certificate() if secure else None
    def connection():
        if not secure:
            return SMTP(handler, loop=loop)
        return SMTP(handler, loop=loop, tls_context=tls, require_starttls=True, authenticator=login, auth_required=True)
    server = await loop.create_server(connection, "127.0.0.1", port)
    async with server:
        await server.serve_forever()

asyncio.run(main())
