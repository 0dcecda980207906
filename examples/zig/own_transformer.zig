//! The program of ../14_own_transformer.c in Zig: a network of one's own, trained with soft targets and the update inside
//! backward, saved and resumed. The same files, byte for byte.
//! usage: own_transformer FOLDER
const std = @import("std");
const c = @import("c");

const vocab = 64;
const hidden = 32;
const blocks = 2;
const num_layers = blocks + 3;
const sequences = 2;
const length = 16;
const num_tokens = sequences * length;
const steps = 12;
const half = steps / 2;

const Failed = error{Dqt};

fn ok(ctx: ?*const c.dqt_context, status: c.dqt_status) Failed!void {
    if (status == c.DQT_OK) return;
    std.debug.print("{s}: {s}\n", .{ std.mem.span(c.dqt_status_string(status)), std.mem.span(c.dqt_last_error(ctx)) });
    return Failed.Dqt;
}

/// A struct of zeros with its size set, as DQT_INIT makes it: zeros stand for defaults.
fn zeros(comptime Struct: type) Struct {
    var result = std.mem.zeroes(Struct);
    result.struct_size = @sizeOf(Struct);
    return result;
}

/// The soft target of a token: the one 7 further, and a little of its neighbours.
fn target(token: i32, class: usize) f64 {
    return switch ((class + 2 * vocab - @as(usize, @intCast(token)) - 7) % vocab) {
        0 => 0.9,
        1, vocab - 1 => 0.05,
        else => 0,
    };
}

/// Mean cross-entropy against the targets; the logits become its gradient. exp and log are C's: Zig has its own.
fn softLoss(tokens: *const [num_tokens]i32, logits: *[num_tokens][vocab]f32) f64 {
    var loss: f64 = 0;
    for (tokens, logits) |token, *row| {
        var sum: f64 = 0;
        for (row) |x| sum += c.exp(x);
        for (row, 0..) |*x, class| {
            const q = target(token, class);
            loss += q * (c.log(sum) - x.*) / num_tokens;
            x.* = @floatCast((c.exp(x.*) / sum - q) / num_tokens);
        }
    }
    return loss;
}

const Network = struct {
    ctx: ?*c.dqt_context,
    layers: [num_layers]?*c.dqt_layer = @splat(null), // embedding, blocks, norm, head
    tape: ?*c.dqt_tape = null,
    updater: ?*c.dqt_updater = null,

    fn create(ctx: ?*c.dqt_context, seed: u64) Failed!Network {
        var n = Network{ .ctx = ctx };
        errdefer n.destroy();
        var o = zeros(c.dqt_layer_options);
        o.seed = seed;
        for (1..blocks + 1) |i| {
            var name: [16]u8 = undefined; // parameters are saved by name
            _ = c.snprintf(&name, name.len, "blocks.%d", @as(c_int, @intCast(i - 1)));
            var b = o;
            b.name = &name;
            if (i == blocks) { // the last: int4 with a scale for each 32 columns
                b.weight.storage = c.DQT_FORMAT_INT4;
                b.weight.scale_axis = c.DQT_AXIS_GROUP;
                b.weight.group_size = 32;
            }
            try ok(ctx, c.dqt_block_create(ctx, hidden, 2 * hidden, 4, 2, &b, &n.layers[i]));
        }
        try ok(ctx, c.dqt_rmsnorm_create(ctx, hidden, &o, &n.layers[blocks + 1]));
        o.weight.storage = c.DQT_FORMAT_INT8;
        try ok(ctx, c.dqt_embedding_create(ctx, vocab, hidden, &o, &n.layers[0]));
        try ok(ctx, c.dqt_head_create(ctx, null, hidden, vocab, &o, &n.layers[blocks + 2]));

        var t = zeros(c.dqt_tape_options);
        t.max_batch = sequences;
        t.max_length = length;
        t.no_gradient_buffers = 1;
        t.recompute = 1;
        t.checkpoint_format = c.DQT_FLOAT_BF16;
        t.seed = 1;
        try ok(ctx, c.dqt_tape_create(ctx, &n.layers, num_layers, &t, &n.tape));
        var u = zeros(c.dqt_updater_options);
        u.momentum_state = c.DQT_STATE_INT8;
        u.variance_state = c.DQT_STATE_INT8;
        u.clip = c.DQT_CLIP_PREVIOUS_NORM;
        u.seed = 1;
        try ok(ctx, c.dqt_updater_create(ctx, &n.layers, num_layers, &u, &n.updater));
        return n;
    }

    fn destroy(n: *Network) void {
        c.dqt_updater_destroy(n.updater);
        c.dqt_tape_destroy(n.tape);
        for (n.layers) |layer| c.dqt_layer_destroy(layer);
    }

    fn train(n: *Network, from: u64, to: u64) Failed!void {
        var tokens: [num_tokens]i32 = undefined;
        var x: [num_tokens][hidden]f32 = undefined;
        var logits: [num_tokens][vocab]f32 = undefined;
        const head = blocks + 2;
        var b = zeros(c.dqt_batch);
        b.batch = sequences;
        b.length = length;
        b.tokens = &tokens;
        for (from..to) |step| {
            for (&tokens, 0..) |*token, i| token.* = @intCast((7 * i + 3 * step) % vocab);
            try ok(n.ctx, c.dqt_embedding_forward(n.layers[0], n.tape, &b, &x[0]));
            for (1..head) |i| try ok(n.ctx, c.dqt_layer_forward(n.layers[i], n.tape, &b, &x[0], &x[0]));
            try ok(n.ctx, c.dqt_head_logits(n.layers[head], n.tape, &b, &x[0], &logits[0]));
            const loss = softLoss(&tokens, &logits);
            _ = c.printf("step %2d: loss %.6f\n", @as(c_int, @intCast(step)), loss);

            var s = zeros(c.dqt_step_options);
            var g = zeros(c.dqt_logits_gradient);
            s.learning_rate = c.dqt_schedule_cosine(step, 2, steps, 0.02, 0.1);
            g.dlogits = &logits[0];
            try ok(n.ctx, c.dqt_tape_begin_update(n.tape, n.updater, &s));
            try ok(n.ctx, c.dqt_head_backward_logits(n.layers[head], n.tape, &g, &x[0]));
            for (1..head) |i| try ok(n.ctx, c.dqt_layer_backward(n.layers[head - i], n.tape, &x[0], &x[0]));
            try ok(n.ctx, c.dqt_embedding_backward(n.layers[0], n.tape, &x[0]));
            try ok(n.ctx, c.dqt_tape_end_update(n.tape, null));
        }
    }

    fn save(n: *const Network, path: [*:0]const u8, done: u64) Failed!void {
        var text: [16]u8 = undefined;
        var o = zeros(c.dqt_save_options);
        o.host_size = @intCast(c.snprintf(&text, text.len, "%d", @as(c_int, @intCast(done))));
        o.host = &text;
        o.tape = n.tape;
        try ok(n.ctx, c.dqt_layers_save(&n.layers, num_layers, n.updater, path, &o));
    }

    /// Into a network that has been created alike; returns the steps done.
    fn load(n: *Network, path: [*:0]const u8) Failed!u64 {
        var found = zeros(c.dqt_checkpoint);
        try ok(n.ctx, c.dqt_layers_load(&n.layers, num_layers, n.updater, path, null, &found));
        defer c.dqt_host_bytes_free(n.ctx, found.host, found.host_size);
        try ok(n.ctx, c.dqt_tape_set_pass(n.tape, found.passes));
        const bytes: [*]const u8 = @ptrCast(found.host orelse return Failed.Dqt);
        return std.fmt.parseInt(u64, bytes[0..found.host_size], 10) catch Failed.Dqt;
    }
};

fn same(a: [*:0]const u8, b: [*:0]const u8) bool {
    const f = c.fopen(a, "rb") orelse return false;
    defer _ = c.fclose(f);
    const g = c.fopen(b, "rb") orelse return false;
    defer _ = c.fclose(g);
    while (true) {
        const x = c.getc(f);
        if (x != c.getc(g)) return false;
        if (x == c.EOF) return true;
    }
}

fn run(folder: [*:0]const u8) Failed!void {
    var paths: [3][512:0]u8 = undefined;
    for (&paths, [_][*:0]const u8{ "whole", "half", "resumed" }) |*path, name|
        _ = c.snprintf(path, path.len, "%s/%s.dqt", folder, name);
    const whole: [*:0]const u8 = &paths[0];
    const middle: [*:0]const u8 = &paths[1];
    const resumed: [*:0]const u8 = &paths[2];
    var ctx: ?*c.dqt_context = null;
    try ok(null, c.dqt_context_create(null, &ctx));
    defer c.dqt_context_destroy(ctx);

    var n = try Network.create(ctx, 1);
    defer n.destroy();
    try n.train(0, half);
    try n.save(middle, half);
    try n.train(half, steps);
    try n.save(whole, steps);

    var again = try Network.create(ctx, 2); // other weights, which loading replaces
    defer again.destroy();
    const done = try again.load(middle);
    try again.train(done, steps);
    try again.save(resumed, steps);
    if (!same(whole, resumed)) {
        std.debug.print("{s} and {s} differ\n", .{ whole, resumed });
        return Failed.Dqt;
    }
    _ = c.printf("resumed after step %d: the same bytes\n", @as(c_int, @intCast(done)));
}

pub export fn main(argc: c_int, argv: [*c][*c]u8) c_int {
    if (argc != 2) {
        std.debug.print("usage: own_transformer FOLDER\n", .{});
        return 2;
    }
    run(argv[1]) catch return 1;
    return 0;
}
