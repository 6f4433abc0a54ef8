"""The cells that are compared. Each finds `model`, `optimizer`, `loader`, `F` and `N` in its namespace."""

PLAIN = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""

HAND_WRITTEN = """\
for x, y in loader:
    optimizer.zero_grad()
    for micro_x, micro_y in zip(x.chunk(N), y.chunk(N)):
        loss = F.cross_entropy(model(micro_x), micro_y)
        (loss * (len(micro_x) / len(x))).backward()
    optimizer.step()
"""

ACCELERATE = """\
for x, y in micro_loader:
    with accelerator.accumulate(model):
        loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
"""

FABRIC = """\
for index, (x, y) in enumerate(micro_loader, 1):
    with fabric.no_backward_sync(model, enabled=index % N != 0):
        loss = F.cross_entropy(model(x), y)
        fabric.backward(loss / N)
    if index % N == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

FORTY_LINES = """\
model.train()
history = []
best = float("inf")
step = 0
for epoch in range(epochs):
    total_loss = 0.0
    correct = 0
    seen = 0
    progress = tqdm(loader, desc=f"epoch {epoch}")
    for batch in progress:
        x = batch["image"].to(device)
        y = batch["label"].to(device)
        if augment is not None:
            x = augment(x)
        lr = base_lr * min(1.0, (step + 1) / warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss = loss + weight_decay * sum(p.pow(2).sum() for p in model.parameters())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        step += 1
        total_loss += loss.item() * x.size(0)
        correct += (logits.argmax(1) == y).sum().item()
        seen += x.size(0)
        if step % 100 == 0:
            progress.set_postfix(loss=loss.item(), lr=lr)
    train_loss = total_loss / seen
    train_acc = correct / seen
    with torch.no_grad():
        val_out = torch.cat([model(vx.to(device)) for vx, _ in val_loader])
        val_y = torch.cat([vy.to(device) for _, vy in val_loader])
        val_acc = (val_out.argmax(1) == val_y).float().mean().item()
    history.append((epoch, train_loss, train_acc, val_acc))
    best = min(best, train_loss)
    print(f"{epoch}: {train_loss:.4f} {train_acc:.3f} {val_acc:.3f}")
"""

INFONCE = """\
for x, z in loader:
    optimizer.zero_grad()
    a, b = F.normalize(model(x), dim=1), F.normalize(model(z), dim=1)
    loss = F.cross_entropy(a @ b.T / 0.1, torch.arange(len(x)))
    loss.backward()
    optimizer.step()
"""

GRAD_CACHE = """\
for x, z in loader:
    optimizer.zero_grad()
    chunks = [*x.chunk(N), *z.chunk(N)]
    with torch.no_grad():
        outputs = torch.cat([model(chunk) for chunk in chunks])
    outputs.requires_grad_()
    a, b = (F.normalize(half, dim=1) for half in outputs.chunk(2))
    loss = F.cross_entropy(a @ b.T / 0.1, torch.arange(len(x)))
    loss.backward()
    for chunk, gradient in zip(chunks, outputs.grad.chunk(2 * N)):
        model(chunk).backward(gradient)
    optimizer.step()
"""
