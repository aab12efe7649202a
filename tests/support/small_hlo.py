"""Compiled text as the TPU compiler writes it, cut down to what tools.aot_report reads."""

# An all-gather that overlaps computation: a copy of it in each fusion, one channel. And a
# reduce-scatter, which the compiler writes as a fusion around an all-reduce.
SPREAD = """HloModule spread, is_scheduled=true

%starting (p.0: bf16[8,4]) -> (bf16[8,4], bf16[8,16]) {
  %p.0 = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %gather.0 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=7, \
replica_groups=mesh['x'=4,'y'=2] {'x'}, dimensions={1}, backend_config={"flag_start":"-1"}
  ROOT %start = (bf16[8,4], bf16[8,16]) custom-call(%gather.0), \
custom_call_target="AsyncCollectiveStart"
}

%going.on (p.1: bf16[8,4], p.2: bf16[64,16]) -> (bf16[1,16], bf16[8,16]) {
  %p.1 = bf16[8,4]{1,0} parameter(0)
  %p.2 = bf16[64,16]{1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %row = bf16[1,16]{1,0} dynamic-slice(%p.2, %zero, %zero), dynamic_slice_sizes={1,16}
  %gather.1 = bf16[8,16]{1,0} all-gather(%p.1), channel_id=7, \
replica_groups=mesh['x'=4,'y'=2] {'x'}, backend_config={"flag_start":"2"}
  ROOT %both = (bf16[1,16]{1,0}, bf16[8,16]{1,0}) tuple(%row, %gather.1)
}

%ending (p.3: bf16[8,16]) -> bf16[8,16] {
  %p.3 = bf16[8,16]{1,0} parameter(0)
  %gather.2 = bf16[8,16]{1,0} all-gather(%p.3), channel_id=7, dimensions={1}
  ROOT %done = bf16[8,16] custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (p.4: f32[64]) -> f32[16] {
  %p.4 = f32[64]{0} parameter(0)
  %sum = f32[64]{0} all-reduce(%p.4), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %mine = f32[16]{0} dynamic-slice(%sum, %zero), dynamic_slice_sizes={16}
}

ENTRY %main (p: bf16[8,4], q: bf16[64,16], r: f32[64]) -> f32[16] {
  %p = bf16[8,4]{1,0} parameter(0)
  %q = bf16[64,16]{1,0} parameter(1)
  %r = f32[64]{0} parameter(2)
  %begun = (bf16[8,4], bf16[8,16]) fusion(%p), kind=kCustom, calls=%starting
  %going = (bf16[1,16]{1,0}, bf16[8,16]{1,0}) fusion(%p, %q), kind=kOutput, calls=%going.on
  %late = bf16[8,16]{1,0} get-tuple-element(%going), index=1
  %whole = bf16[8,16]{1,0} fusion(%late), kind=kCustom, calls=%ending
  ROOT %part = f32[16]{0} fusion(%r), kind=kCustom, calls=%all-reduce-scatter.1
}
"""

# A loop from 2 to at most 7, and in each of its rounds one from 0 to 8 by twos that sends an array
# in vector memory to the next chip.
LOOPS = """HloModule loops, is_scheduled=true

%inner.body (i: (u32[], f32[4,2])) -> (u32[], f32[4,2]) {
  %i = (u32[]{:T(128)}, f32[4,2]{1,0:T(8,128)S(1)}) parameter(0)
  %n.0 = u32[]{:T(128)} get-tuple-element(%i), index=0
  %two = u32[]{:T(128)} constant(2)
  %x.0 = f32[4,2]{1,0:T(8,128)S(1)} get-tuple-element(%i), index=1
  %send = (f32[4,2]{1,0:T(8,128)S(1)}, f32[4,2]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) \
collective-permute-start(%x.0), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %sent = f32[4,2]{1,0:T(8,128)S(1)} collective-permute-done(%send)
  %more = u32[]{:T(128)} add(%n.0, %two)
  ROOT %out.0 = (u32[]{:T(128)}, f32[4,2]{1,0:T(8,128)S(1)}) tuple(%more, %sent)
}

%inner.condition (i: (u32[], f32[4,2])) -> pred[] {
  %i.1 = (u32[]{:T(128)}, f32[4,2]{1,0}) parameter(0)
  %eight = u32[]{:T(128)} constant(8)
  %n.1 = u32[]{:T(128)} get-tuple-element(%i.1), index=0
  ROOT %less.0 = pred[]{:T(512)} compare(%n.1, %eight), direction=LT
}

%outer.body (o: (s32[], f32[4,2], s32[], pred[])) -> (s32[], f32[4,2], s32[], pred[]) {
  %o = (s32[]{:T(128)}, f32[4,2]{1,0}, s32[]{:T(128)}, pred[]) parameter(0)
  %n.2 = s32[]{:T(128)} get-tuple-element(%o), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%n.2, %one)
  %x.2 = f32[4,2]{1,0} get-tuple-element(%o), index=1
  %twice = f32[4,2]{1,0} add(%x.2, %x.2)
  %zero = u32[]{:T(128)} constant(0)
  %start.2 = (u32[]{:T(128)}, f32[4,2]{1,0}) tuple(%zero, %twice)
  %inner = (u32[], f32[4,2]{1,0}) while(%start.2), condition=%inner.condition, body=%inner.body
  %y.2 = f32[4,2]{1,0} get-tuple-element(%inner), index=1
  %end.2 = s32[]{:T(128)} get-tuple-element(%o), index=2
  %done.2 = pred[] get-tuple-element(%o), index=3
  ROOT %out.2 = (s32[], f32[4,2]{1,0}, s32[], pred[]) tuple(%next, %y.2, %end.2, %done.2)
}

%less.and.not.done (a: s32[], b: s32[], c: pred[]) -> pred[] {
  %a = s32[]{:T(128)} parameter(0)
  %b = s32[]{:T(128)} parameter(1)
  %c = pred[] parameter(2)
  %less.3 = pred[] compare(%a, %b), direction=LT
  %not.3 = pred[] not(%c)
  ROOT %both.3 = pred[] and(%less.3, %not.3)
}

%outer.condition (o: (s32[], f32[4,2], s32[], pred[])) -> pred[] {
  %o.4 = (s32[]{:T(128)}, f32[4,2]{1,0}, s32[]{:T(128)}, pred[]) parameter(0)
  %n.4 = s32[]{:T(128)} get-tuple-element(%o.4), index=0
  %end.4 = s32[]{:T(128)} get-tuple-element(%o.4), index=2
  %done.4 = pred[] get-tuple-element(%o.4), index=3
  ROOT %go = pred[] fusion(%n.4, %end.4, %done.4), kind=kLoop, calls=%less.and.not.done
}

ENTRY %main (s: f32[4,2], t: pred[]) -> f32[4,2] {
  %s = f32[4,2]{1,0} parameter(0)
  %t = pred[] parameter(1)
  %c.0 = s32[]{:T(128)} constant(2)
  %copied = s32[]{:T(128)} copy(%c.0)
  %c.1 = s32[]{:T(128)} constant(7)
  %start = (s32[], f32[4,2]{1,0}, s32[], pred[]) tuple(%copied, %s, %c.1, /*index=3*/%t)
  %loop = (s32[], f32[4,2]{1,0}, s32[], pred[]) while(%start), condition=%outer.condition, \
body=%outer.body
  ROOT %last = f32[4,2]{1,0} get-tuple-element(%loop), index=1
}
"""

TOO_LARGE = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.

Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(step)/jvp()/while" source_file="a.py"
     Shape: f32[4,16,4096,4096]{3,2,1,0:T(8,128)}
     Unpadded size: 4.00G
     Allocation type: HLO temp
     ==========================

  2. Size: 512.5M
     Shape: bf16[4096,32128]{1,0:T(8,128)(2,1)}
     Allocation type: HLO temp
"""
