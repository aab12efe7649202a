"""The reference localisation recipe of LEGION, with every knob a run can have.

    python -m legion_jax.train --config experiments/base.py --workdir runs/legion \\
        --config.init_from=DIR --config.data.data_dir=DIR

`init_from` is made by `tools.convert_from_torch`, `data_dir` by `tools.prepare_data`. Other
recipes load this one by `recipes.load("base")`, call `get_config()` and change what differs.
"""

import ml_collections

# LEGION, section 4: LoRA on query and value, vocabulary matrices, [SEG] projection, mask decoder.
LOCALISATION = (r"/lora_[ab]$", r"^language/(embed|head)/", r"^text_projection/", r"^mask_decoder/")
VERDICT_ONLY = (r"^verdict/",)
EVERYTHING = (r".*",)


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.seed = 0  # initialisation, shuffling and dropout
    # data, fsdp, tensor and, where a fourth number follows, sequence; -1 takes what is left.
    c.mesh = (1, -1, 1)
    c.init_from = ""  # converted checkpoint; empty: from scratch, everything must be trainable
    c.trainable = LOCALISATION  # patterns over parameter paths
    c.frozen_dtype = "bfloat16"  # dtype frozen parameters are held in

    c.model = _model()
    c.data = _data()

    c.batch_size = 16  # global, per update
    c.accumulation = 1  # parts a batch is cut into to save memory
    c.compile_cache = True  # keep compiled programs in the work directory for the next start
    c.log_every = 10
    # TensorBoard shows a few training photos, their true masks and those of the model (0: never).
    c.log_images_every = 100
    c.checkpoint_every = 100
    c.checkpoint_keep = 2  # the newest ones stay,
    c.checkpoint_keep_every = 0  # and those of every so many steps, for good (0: none),
    c.checkpoint_keep_best = 0  # and so many with the best eval.metric (0: none)
    c.stop_above = 0.0  # loss at which a run stops (0: when loss or gradient is not finite)

    c.loss = ml_collections.ConfigDict()  # weights of the terms
    c.loss.ce = 1.0
    c.loss.bce = 0.4
    c.loss.dice = 0.2
    c.loss.verdict = 0.0  # the published verdict head is trained on its own, see detect_tiny.py

    c.compat = _compat()

    c.optimizer = _optimizer()

    c.eval = _eval()
    c.lock()
    return c


def _model() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    # One of legion_jax/config.py's PUBLISHED and TINY; with init_from the checkpoint decides.
    c.name = "legion_7b"
    c.lora_rank = 8
    c.lora_alpha = 16.0
    c.lora_dropout = 0.05
    # Kernels of the language model's layers: query, key, value, out, gate, up, down.
    c.lora_targets = ("query", "value")
    c.dtype = "bfloat16"  # float32: full-precision arithmetic everywhere
    c.position_dtype = "bfloat16"  # the published weights were trained with rounded positions
    # What the backward pass computes again instead of keeping it: "layers", "attention" (all but
    # products with weights: a quarter less to compute, more memory) or "none"; by tower as
    # "layers,language=attention" (towers: vision, language, sam_encoder).
    c.remat = "layers"
    return c


def _data() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.data_dir = ""  # folder written by tools.prepare_data
    c.train_split = "train"
    # Several data sets at once: ((folder, split, weight), ...) in place of the two above.
    c.mixture = ()
    c.eval_split = "test"
    c.tokenizer = ""  # folder with tokenizer.model; empty: the one of init_from
    # What is written around questions and answers: legion, llava15_chat, sida or sida_described;
    # see input_pipeline/text/dialogue.py.
    c.dialogue = "legion"
    c.instruction = ""  # the question of every conversation; empty: the dialogue's own
    c.text_length = 961  # ids per row, the image placeholder counting as one
    # Shorter lengths a batch may have: texts of about one length go together, and each length is
    # compiled once. The published texts have 300 ids on average.
    c.text_buckets = ()
    c.own_questions = False  # ask what a record asks, where it asks something
    # Learn answers that say no more than a record's label, too; only SIDA's dialogues have them.
    c.learn_labels = False
    c.mask_slots = 8  # masks per photo; further regions stay plain text
    c.mask_canvas = 1024  # side of the frame losses are computed in; larger photos are scaled
    # Targets are shares, not bits: masks with their greys, antialiased, in the frame of the photo
    # as SAM sees it (which mask_canvas must have room for) rather than in its own.
    c.soft_masks = False
    # The published training resized the longest side to 512 but inference to 1024. Here both use
    # this one value; 0 means the whole SAM canvas.
    c.sam_longest = 0
    # Decode JPEGs far larger than both views need at 1/2, 1/4 or 1/8 of their size. Faster, and
    # pixels differ by about one step of 255 on average; only in training.
    c.reduced_decoding = False
    # Folder where tools.cache_features keeps what frozen towers see; empty: seen anew every step.
    c.features = ""
    c.threads = 2  # threads that prepare batches, in each worker if there are any
    c.workers = 0  # processes that prepare batches; each holds `buffer` of them
    c.buffer = 2
    c.max_bad = 0.01  # share of unusable records at which a run stops
    return c


def _compat() -> ml_collections.ConfigDict:
    """Faults of SIDA's published training, by which it can be repeated (see sida_7b_published)."""
    c = ml_collections.ConfigDict()
    # bce and dice each weigh loss.bce + loss.dice: two names were given to one sum.
    c.doubled_masks = False
    # The second norm of every language layer is trained: a pattern for another part matched it.
    c.trained_norms = False
    # text_projection, verdict and fusion are drawn anew, whatever init_from holds of them, and stay
    # so where they are not trained.
    c.fresh_heads = False
    # A batch without a text to learn has a language loss of NaN, at which a run here stops.
    c.nan_without_text = False
    return c


def _eval() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.batch_size = 8  # answers written at the same time
    c.max_new_tokens = 512
    # The run is scored every so many updates, and at its end, on records of data.data_dir's
    # data.eval_split (0: never). Its answers take longer than its updates.
    c.every = 0
    c.photos = 64  # so many of the split, evenly spaced
    # What checkpoint_keep_best goes by, one of legion_jax/train/evaluation.py's SCORES.
    c.metric = "localisation.mean.f1"
    return c


def _optimizer() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.learning_rate = 1e-4
    c.schedule = "linear"  # after the warm-up: linear, cosine or constant
    # "above_zero": update t of it has (t + 1) / warmup_steps of the rate; "from_zero": t /
    # warmup_steps; "peak_first": all of it, and then from zero, as in SIDA's published training.
    c.warmup = "above_zero"
    c.warmup_steps = 100
    c.total_steps = 2109
    c.beta1 = 0.9
    c.beta2 = 0.95
    c.epsilon = 1e-8
    c.weight_decay = 0.0
    c.clip_norm = 1.0
    return c
