import time
from pathlib import Path
from benchmarks.drafts import *
d=pull.ensure_model("smollm2-135m-instruct")
e=LocalEngine.from_folder("x",Path("/tmp/draft-deeper/0.003"),CPU,draft_model=(d.name,d.folder))
for w,r in list(requests(48).items())[:4]:
    list(e.stream(r)); L=e._draft_model.length
    print(w,{k:(round(v*1000,2) if isinstance(v,float) and 'seconds' in k else v) for k,v in vars(L).items()})
m=e._draft_model._model; big=e._adapters.model
for name,x in (("draft",m),("big",big)):
    c=x.new_cache(); c.prefill(list(range(100)))
    for n in (1,2,3,4,6,8,16):
        t=[]
        for _ in range(6):
            a=time.perf_counter(); c.decode(list(range(n))); t.append(time.perf_counter()-a); c.truncate(100)
        print(name,"decode",n,round(min(t)*1000,2))
    for n in (16,32,64):
        t=[]
        for _ in range(4):
            a=time.perf_counter(); c.prefill(list(range(n))); t.append(time.perf_counter()-a); c.truncate(100)
        print(name,"prefill",n,round(min(t)*1000,2))
