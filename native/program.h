// A model's forward pass as a list of operations, run by all threads of the pool in one call.
//
// Python builds the list once from the model's own code, and passes for each step where its rows,
// cache and results lie. Every thread walks the list; operations share their units among threads
// and meet at a barrier.
#pragma once

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "attend_plan.h"
#include "kernels.h"
#include "routes.h"
#include "row_buffer.h"
#include "shares.h"
#include "step.h"
#include "top_logits.h"

namespace kept {

// Of the norms of single heads; see PlaceArgs.
struct HeadNorms {
    const float *q = nullptr, *k = nullptr, *v = nullptr;
    float eps = 0;
    bool by_head = false, centred = false;
};

// The tables a step brings have `stride` numbers a row, of which a layer reads dim / 2 from `begin`
// on. dim: 0: it rotates nothing. neighbours: see PlaceArgs.
struct RotaryColumns {
    std::int64_t dim = 0, begin = 0, stride = 0;
    bool neighbours = false;
};

class Program {
  public:
    // Throws std::invalid_argument for a name no kernels of this CPU go by.
    explicit Program(const std::string& isa);
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // Adds rows as RowBuffer describes them; returns their name.
    int add_buffer(std::int64_t width, bool is_bf16, std::int64_t per_row = 1);
    int add_code_buffer(std::int64_t width, bool for_int4, std::int64_t per_row = 1);
    int add_weights(const Weights& weights);
    // Of all experts of a layer, which are alike but for their numbers.
    int add_expert_weights(std::vector<Weights> weights);

    // num_positions: rows of the position table, which may be null.
    // scale: of the table's rows. others_first: tokens that it has no row for have its first.
    void embed(int table, const float* position_table, std::int64_t num_positions, int out,
               float scale, bool others_first = false);
    // add: to the rows of `out`, in place. Of `width` columns from `begin` on; those of `out`
    // behind them are zeros, unless it is x.
    void norm(int x, const float* weight, const float* bias, float eps, int out, bool wanted,
              bool add, std::int64_t begin, std::int64_t width);
    // Rows of floats, to be read by a linear layer while they go on being added to; times a factor,
    // and times columns of the rows of `by` from `begin` on, unless that is below zero.
    void round(int x, int out, float factor, int by, std::int64_t begin);
    // Activations to int8 codes: `out` is a buffer of codes.
    void quantize(int x, int out, bool wanted);
    // softcap: of logits, 0: none. scale: of the outputs, before anything else becomes of them.
    // adapters: what rows take on before that, of which `shrink` is the operation before; -1: none.
    void linear(int in, int weights, Epilogue epilogue, Activation activation, int out, bool wanted,
                float softcap, float scale, int adapters = -1);
    // Of one layer; of all layers as many.
    int add_adapters(std::vector<LowRank> adapters);
    // The numbers of adapted rows of `x` in the ranks of their adapters.
    void shrink(int x, int adapters);
    // crossing: `layer` is one of each encoder input that the step brings,
    // and its keys are those of the sequences that attend it.
    void place(int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
               const HeadNorms& norms, const RotaryColumns& rotary, bool crossing);
    // crossing: each sequence attends its input's layer. idle: (heads) or null, see AttendArgs.
    void attend(int queries, std::int64_t layer, const AttentionShape& shape, int out,
                const DistanceBias& bias, bool crossing, const float* idle);

    // Places what all heads attend one latent by (PlaceLatentArgs). absorbed, turning, compressed
    // and queries: buffers.
    struct PlaceLatent {
        int absorbed, turning;
        std::int64_t begin, apart;
        int compressed, queries;
        std::int64_t layer;
        AttentionShape shape;
        const float* norm;
        float eps;
        RotaryColumns rotary;
    };
    void place_latent(const PlaceLatent& op);
    // Of each head a matrix of its own, by columns of a row: those of head h begin at `begin` + h
    // `apart`, and what it makes of them lies one head behind the other. weights: as those of
    // experts are added.
    struct HeadProducts {
        int in;
        std::int64_t begin, apart;
        int weights, out;
    };
    void head_products(const HeadProducts& op);

    // A mixture of experts: every row chooses by its scores; rows are gathered for those they
    // chose, unless there is but one; products of each expert with its slots; and their sum.
    // Buffers of slots hold as many a row as it chooses experts. ungathered: where a single row is
    // read, -1: `in` is no gathered one. shared: what a shared expert made of all rows, -1: there
    // is none.
    void choose(int scores, const Routing& routing);
    void gather(int x, int out);
    void experts(int in, int ungathered, int weights, Epilogue epilogue, Activation activation,
                 int out);
    void combine(int x, int shared, int out, bool add);

    // Columns of x from `from` on, `width` of them, to those of `out` from `to` on. weight:
    // (width), what they are multiplied with, or null. add: to what is there.
    void columns(int x, std::int64_t from, std::int64_t width, int out, std::int64_t to,
                 const float* weight, bool add);
    // x as large as `like`: of the same root mean square; to columns of `out` from `to` on.
    void match(int x, int like, float least, int out, std::int64_t to, bool add);
    // Streams side by side in x, in place. weight: (S * S, S).
    void predict(int x, std::int64_t num_streams, int routes, const float* weight);
    // weight: (S, S). active: what became of stream `index`.
    void correct(int x, std::int64_t num_streams, int routes, const float* weight, int active,
                 std::int64_t index);
    // Gates that lie far above the mean of their row, and what they gate.
    void gate_sparsely(int gates, int ups, float deviations, Activation activation, int out);

    std::int64_t num_ops() const { return static_cast<std::int64_t>(ops_.size()); }

    // Runs operations [first, last). Mutates the buffers, the layers' stores and the logits.
    // Before anything is stored it throws std::bad_alloc, std::out_of_range for a token, position
    // or wanted row that does not exist, or std::invalid_argument for operations that there are not
    // and a step whose memory does not hold what the program reads and writes.
    void run(const Step& step, std::int64_t first, std::int64_t last, bool among_torch = false);

    // The largest logit of each wanted row of the last run.
    const std::vector<Best>& best() const { return best_; }
    // The step's top_k largest of each wanted row, if the last run made its logits.
    const TopLogits& top() const { return top_; }
    // Rows as the last run left them. Throws std::invalid_argument for a name that there is not.
    const RowBuffer& known(int name) const;
    // For a program that only attends: where its queries are to be put before each run.
    RowBuffer& known(int name) { return const_cast<RowBuffer&>(std::as_const(*this).known(name)); }

  private:
    struct Embed {
        int table;
        const float* position_table;
        std::int64_t num_positions;
        int out;
        float scale;
        bool others_first;
    };
    struct Norm {
        int x;
        const float *weight, *bias;
        float eps;
        int out;
        bool wanted, add;
        std::int64_t begin, width;
    };
    struct Round {
        int x, out;
        float factor;
        int by;
        std::int64_t begin;
    };
    struct Quantize {
        int x, out;
        bool wanted;
    };
    struct Linear {
        int in, weights;
        Epilogue epilogue;
        Activation activation;
        int out;
        bool wanted;
        float softcap, scale;
        int adapters;
    };
    struct Shrink {
        int x, adapters;
    };
    struct Place {
        int qkv, queries;
        std::int64_t layer;
        AttentionShape shape;
        HeadNorms norms;
        RotaryColumns rotary;
        bool crossing;
    };
    struct Attend {
        int queries;
        std::int64_t layer;
        AttentionShape shape;
        int out;
        DistanceBias bias;
        bool crossing;
        const float* idle;
    };
    struct Choose {
        int scores;
        Routing routing;
    };
    struct Gather {
        int x, out;
    };
    struct Experts {
        int in, ungathered, weights;
        Epilogue epilogue;
        Activation activation;
        int out;
    };
    struct Combine {
        int x, shared, out;
        bool add;
    };
    struct Columns {
        int x;
        std::int64_t from, width;
        int out;
        std::int64_t to;
        const float* weight;
        bool add;
    };
    struct Match {
        int x, like;
        float least;
        int out;
        std::int64_t to;
        bool add;
    };
    // active: -1: they are predicted, else corrected by it.
    struct Streams {
        int x;
        std::int64_t count;
        int routes;
        const float* weight;
        int active;
        std::int64_t index;
    };
    struct Sparse {
        int gates, ups;
        float deviations;
        Activation activation;
        int out;
    };
    using Op = std::variant<Embed, Norm, Round, Quantize, Linear, Shrink, Place, PlaceLatent,
                            Attend, HeadProducts, Choose, Gather, Experts, Combine, Columns, Match,
                            Streams, Sparse>;

    struct Run;

    // What one thread does of an operation.
    struct Part {
        int thread, threads;
        // Its share of so many units.
        std::pair<std::int64_t, std::int64_t> of(std::int64_t count) const {
            return {count * thread / threads, count * (thread + 1) / threads};
        }
    };
    static const Part kWhole;

    const Weights& weights(int name) const { return weights_[static_cast<std::size_t>(name)]; }
    const RowBuffer& buffer(int name) const { return buffers_[static_cast<std::size_t>(name)]; }
    // Throw std::invalid_argument for an operation or a step that would leave its memory, and
    // std::out_of_range for a token, position or row that does not exist.
    void check_op(const Embed& op) const;
    void check_op(const Norm& op) const;
    void check_op(const Round& op) const;
    void check_op(const Quantize& op) const;
    void check_op(const Linear& op) const;
    void check_op(const Shrink& op) const;
    void check_op(const Place& op) const;
    void check_op(const PlaceLatent& op) const;
    void check_op(const Attend& op) const;
    void check_op(const HeadProducts& op) const;
    void check_op(const Choose& op) const;
    void check_op(const Gather& op) const;
    void check_op(const Experts& op) const;
    void check_op(const Combine& op) const;
    void check_op(const Columns& op) const;
    void check_op(const Match& op) const;
    void check_op(const Streams& op) const;
    void check_op(const Sparse& op) const;
    void check_product(const RowBuffer& in, const Weights& w, Epilogue epilogue,
                       const RowBuffer& out) const;
    void check_per_row(const RowBuffer& rows) const;
    const Routing& last_choice() const;
    void check(const Step& step, std::int64_t first, std::int64_t last) const;
    void check_adapters(const Linear& op) const;
    void check_adapted(const Step& step) const;
    const Adapters& known_adapters(int name) const;
    std::int64_t most_ranks() const;
    void reserve_adapters(const Step& step);
    // What adapted rows take on in these panels of a layer.
    Addend adapt(const Linear& op, std::int64_t first_panel, std::int64_t last_panel);
    template <class T>
    void append(const T& op) {
        check_op(op);
        ops_.push_back(op);
    }
    void reserve(const Step& step);
    // Of an attention the layers that it reads: one, or where it crosses one of each input.
    static std::int64_t num_layers(const Step& step, const Attend& op) {
        return op.crossing ? step.inputs.count() : 1;
    }
    static std::int64_t layer_of(const Step& step, std::int64_t layer, bool crossing,
                                 std::int64_t input) {
        const StepInputs& inputs = step.inputs;
        return crossing ? inputs.first_layer + input * inputs.layers + layer : layer;
    }
    const AttendPlan& plan(const Step& step, const Attend& op, std::int64_t input);
    // Floats of all partial results of an attention.
    std::int64_t partial_floats(const Step& step, const Attend& op);
    void merge_best();
    void work(Run& run, int thread);
    const Op& op(std::int64_t index) const { return ops_[static_cast<std::size_t>(index)]; }
    // Whether one thread does it as fast as all of them and a barrier.
    bool is_small(const Step& step, const Op& op) const;
    // Floats of the partial results that an operation leaves to be merged.
    std::int64_t split_floats(const Step& step, const Op& op);
    void operate(Run& run, std::int64_t index, Part part);
    void operate(Run& run, const Embed& op, Part part);
    void operate(Run& run, const Norm& op, Part part);
    void operate(Run& run, const Round& op, Part part);
    void operate(Run& run, const Quantize& op, Part part);
    LinearArgs linear_args(const Step& step, const Linear& op, int thread);
    void operate(Run& run, const Linear& op, Part part);
    void operate(Run& run, const Shrink& op, Part part);
    void operate(Run& run, const Place& op, Part part);
    void operate(Run& run, const PlaceLatent& op, Part part);
    void operate(Run& run, const Attend& op, Part part);
    void operate(Run& run, const HeadProducts& op, Part part);
    void operate(Run& run, const Choose& op, Part part);
    void operate(Run& run, const Gather& op, Part part);
    void operate(Run& run, const Experts& op, Part part);
    // Panels [first, last) of an expert that rows have chosen.
    void multiply(const Run& run, const Experts& op, const Chosen& chosen, std::int64_t first,
                  std::int64_t last, int thread);
    void operate(Run& run, const Combine& op, Part part);
    void operate(Run& run, const Columns& op, Part part);
    void operate(Run& run, const Match& op, Part part);
    void operate(Run& run, const Streams& op, Part part);
    void operate(Run& run, const Sparse& op, Part part);
    void group(const Run& run, const Choose& op);
    std::int64_t num_rows(const Step& step, const Quantize& op) const {
        return op.wanted ? step.num_wanted : step.rows * buffer(op.x).per_row();
    }
    Sequences sequences(const Step& step, std::int64_t layout) const;
    PlaceArgs place_args(const Run& run, const Place& op, std::int64_t layer);
    static void check_rotary(const RotaryColumns& rotary, std::int64_t width);
    AttendArgs attend_args(const Run& run, const Attend& op, std::int64_t layer);
    // Calls f with the plan and the arguments of each layer that an attention reads.
    template <class F>
    void for_each_layer(Run& run, const Attend& op, const F& f);
    void merge(Run& run, const Attend& op, Part part);

    const Kernels* kernels_;
    std::vector<RowBuffer> buffers_;
    std::vector<Weights> weights_;
    std::vector<std::vector<Weights>> expert_weights_;
    Routes routes_;
    std::vector<Adapters> adapters_;
    std::int64_t num_adapters_ = -1;
    AdaptedRows adapted_;
    // Of adapted rows, until their layer is done with them.
    std::vector<float> narrow_, adapted_sums_;
    std::vector<Op> ops_;
    std::vector<AttendPlan> plans_;
    std::vector<float> partials_;
    std::vector<std::vector<float>> scratch_;
    std::vector<std::int32_t> row_sequence_;
    std::vector<std::vector<Best>> thread_best_;
    std::vector<Best> best_;
    TopLogits top_;
    Shares shares_;
};

}  // namespace kept
