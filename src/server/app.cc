#include "server/app.h"

#include <boost/asio/post.hpp>

namespace lserve {
namespace {

class WorkerExchange : public Exchange, public std::enable_shared_from_this<WorkerExchange> {
 public:
  WorkerExchange(App* app, std::shared_ptr<Responder> responder)
      : app_(app), responder_(std::move(responder)) {}

  void Start(std::function<HttpResponse()> make) {
    boost::asio::post(*app_->workers, [me = shared_from_this(), make = std::move(make)] {
      HttpResponse response;
      try {
        response = make();
      } catch (const std::exception& e) {
        response = me->app_->ErrorResponse({500, e.what(), "", "internal_error"});
      }
      boost::asio::post(me->responder_->executor(), [me, response = std::move(response)]() mutable {
        if (!me->aborted_) me->responder_->Send(std::move(response));
      });
    });
  }

  void Abort(AbortReason reason) override {
    aborted_ = true;
    if (reason == AbortReason::kTimedOut) {
      responder_->Send(app_->ErrorResponse({504, "the request took too long", "", "timeout"}));
    }
  }

 private:
  App* const app_;
  const std::shared_ptr<Responder> responder_;
  bool aborted_ = false;
};

}  // namespace

HttpResponse App::ErrorResponse(const ApiError& error) const {
  HttpResponse response{error.status, error.ToJson()};
  if (error.status == 429 || error.status == 503) {
    response.headers.push_back({"Retry-After", std::to_string(options.retry_after_seconds)});
  }
  if (error.status == 401) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  return response;
}

ApiError App::LoadingError() const { return {503, "the model is being loaded", "", "loading"}; }

std::shared_ptr<Exchange> AnswerOnWorker(App* app, std::shared_ptr<Responder> responder,
                                         std::function<HttpResponse()> make) {
  auto exchange = std::make_shared<WorkerExchange>(app, std::move(responder));
  exchange->Start(std::move(make));
  return exchange;
}

}  // namespace lserve
