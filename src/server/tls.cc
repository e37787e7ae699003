#include "server/tls.h"

#include <openssl/ssl.h>

namespace lserve {

Result<std::shared_ptr<TlsContext>> MakeTlsContext(const std::string& cert,
                                                   const std::string& key) {
  if (cert.empty() || key.empty())
    return InvalidArgument("--tls-cert and --tls-key: one without the other");
  auto context = std::make_shared<TlsContext>(TlsContext::tls_server);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  boost::system::error_code ec;
  context->use_certificate_chain_file(cert, ec);
  if (ec) return InvalidArgument("--tls-cert {}: {}", cert, ec.message());
  context->use_private_key_file(key, TlsContext::pem, ec);
  if (ec) return InvalidArgument("--tls-key {}: {}", key, ec.message());
  if (SSL_CTX_check_private_key(context->native_handle()) != 1)
    return InvalidArgument("--tls-key {}: does not belong to --tls-cert {}", key, cert);
  return context;
}

}  // namespace lserve
