// What a program does of rows of several streams, and of columns of rows.
#include "must.h"
#include "program_run.h"
#include "stream_args.h"

namespace kept {
namespace {

ActRows from_column(ActRows rows, std::int64_t first) {
    rows.data = static_cast<std::byte*>(rows.data) + first * (rows.is_bf16 ? 2 : 4);
    return rows;
}

bool holds_floats(const RowBuffer& rows) {
    return !rows.holds_codes() && !rows.act().is_bf16 && rows.per_row() == 1;
}

}  // namespace

void Program::columns(int x, std::int64_t from, std::int64_t width, int out, std::int64_t to,
                      const float* weight, bool add) {
    append(Columns{x, from, width, out, to, weight, add});
}

void Program::match(int x, int like, float least, int out, std::int64_t to, bool add) {
    append(Match{x, like, least, out, to, add});
}

void Program::predict(int x, std::int64_t num_streams, int routes, const float* weight) {
    append(Streams{x, num_streams, routes, weight, -1, 0});
}

void Program::correct(int x, std::int64_t num_streams, int routes, const float* weight, int active,
                      std::int64_t index) {
    must(active >= 0, "there is no such buffer");
    append(Streams{x, num_streams, routes, weight, active, index});
}

void Program::gate_sparsely(int gates, int ups, float deviations, Activation activation, int out) {
    append(Sparse{gates, ups, deviations, activation, out});
}

void Program::operate(Run& run, const Columns& op, Part part) {
    const RowBuffer &x = buffer(op.x), &out = buffer(op.out);
    const bool is_whole = op.to == 0 && op.width == out.width();
    const ColumnsArgs args{x.floats() + op.from,
                           x.stride(),
                           op.width,
                           is_whole ? out.stride() : op.width,
                           op.weight,
                           from_column(out.act(), op.to),
                           op.add};
    const auto [begin, end] = part.of(run.step.rows);
    kernels_->put_columns(args, begin, end);
}

void Program::operate(Run& run, const Match& op, Part part) {
    const RowBuffer &x = buffer(op.x), &like = buffer(op.like), &out = buffer(op.out);
    const MatchArgs args{x.floats(),           x.stride(),    x.width(),
                         like.floats(),        like.stride(), op.least,
                         out.floats() + op.to, out.stride(),  op.add};
    const auto [begin, end] = part.of(run.step.rows);
    kernels_->match(args, begin, end);
}

void Program::operate(Run& run, const Streams& op, Part part) {
    const RowBuffer &x = buffer(op.x), &routes = buffer(op.routes);
    StreamsArgs args{x.floats(), x.stride(),      x.width() / op.count,
                     op.count,   routes.floats(), routes.stride(),
                     op.weight,  nullptr,         0,
                     op.index};
    const auto [begin, end] = part.of(run.step.rows);
    if (op.active < 0) return kernels_->predict_streams(args, begin, end);
    args.active = buffer(op.active).floats();
    args.active_stride = buffer(op.active).stride();
    kernels_->correct_streams(args, begin, end);
}

void Program::operate(Run& run, const Sparse& op, Part part) {
    const RowBuffer &gates = buffer(op.gates), &ups = buffer(op.ups);
    const SparseArgs args{gates.floats(), ups.floats(),  gates.stride(), ups.stride(),
                          gates.width(),  op.deviations, op.activation,  buffer(op.out).act()};
    const auto [begin, end] = part.of(run.step.rows);
    kernels_->gate_sparsely(args, begin, end);
}

void Program::check_op(const Columns& op) const {
    const RowBuffer &x = known(op.x), &out = known(op.out);
    must(holds_floats(x) && !out.holds_codes() && out.per_row() == 1 &&
             (!op.add || holds_floats(out)),
         "columns are taken from rows of floats, and added to such");
    must(op.from >= 0 && op.to >= 0 && op.width >= 1 && op.from + op.width <= x.width() &&
             op.to + op.width <= out.width(),
         "columns lie beyond their rows");
}

void Program::check_op(const Match& op) const {
    const RowBuffer &x = known(op.x), &like = known(op.like), &out = known(op.out);
    must(holds_floats(x) && holds_floats(like) && holds_floats(out), "rows are matched in floats");
    must(x.width() == like.width() && op.to >= 0 && op.to + x.width() <= out.width(),
         "rows are matched to others of their width");
    must(op.least >= 0, "a mean of squares is at least 0");
}

void Program::check_op(const Streams& op) const {
    const RowBuffer &x = known(op.x), &routes = known(op.routes);
    must(holds_floats(x) && holds_floats(routes), "streams are rows of floats");
    must(op.count >= 1 && op.count <= kMaxStreams && x.width() % op.count == 0 &&
             routes.width() == op.count,
         "streams are alike, few, and have a route each");
    must(op.weight != nullptr, "streams are mixed by weights");
    if (op.active < 0) return;
    must(holds_floats(known(op.active)) && known(op.active).width() == x.width() / op.count &&
             op.index >= 0 && op.index < op.count,
         "streams are corrected by one of them");
}

void Program::check_op(const Sparse& op) const {
    const RowBuffer &gates = known(op.gates), &ups = known(op.ups), &out = known(op.out);
    must(holds_floats(gates) && holds_floats(ups) && !out.holds_codes() && out.per_row() == 1,
         "gates are floats");
    must(gates.width() == ups.width() && gates.width() == out.width(),
         "gates are as many as what they gate");
}

}  // namespace kept
