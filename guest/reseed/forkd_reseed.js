// SPDX-License-Identifier: Apache-2.0
// Gives a warm Node.js process random numbers of its own when its machine is cloned (docs/identity.md):
//   NODE_OPTIONS="--require /usr/local/lib/forkd/reseed/forkd_reseed.js"
// JavaScript cannot seed the generators of V8 and OpenSSL anew, so the functions that a program calls are replaced by such that
// ask the kernel each time: Math.random, and what draws bytes, numbers and UUIDs of node:crypto and Web Crypto. Where no agent is,
// and with FORKD_RESEED=0 in the environment, nothing is replaced.
'use strict';

const fs = require('node:fs');

if (process.env.FORKD_RESEED !== '0' && fs.existsSync('/run/forkd/generation')) {
	const crypto = require('node:crypto');
	const urandom = fs.openSync('/dev/urandom', 'r');
	const eight = new Uint32Array(2);

	const bytesOf = (view) => ArrayBuffer.isView(view) ?
		new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(view);

	const fill = (bytes) => {
		for (let at = 0; at < bytes.length;)
			at += fs.readSync(urandom, bytes, at, Math.min(bytes.length - at, 1 << 20), null);
		return bytes;
	};

	// 53 random bits, as a double has.
	Math.random = () => {
		fill(bytesOf(eight));
		return ((eight[0] >>> 5) * 0x4000000 + (eight[1] >>> 6)) / 0x20000000000000;
	};

	const later = (callback, ...values) => process.nextTick(callback, null, ...values);

	const { randomBytes, randomFillSync, randomFill } = crypto;
	crypto.randomBytes = (size, callback) => {
		if (!Number.isInteger(size) || size < 0 || size > 0x7fffffff)
			return randomBytes(size, callback);	// says what is wrong
		const bytes = fill(Buffer.alloc(size));
		return callback ? later(callback, bytes) : bytes;
	};
	crypto.pseudoRandomBytes = crypto.prng = crypto.rng = crypto.randomBytes;

	// offset and size count elements of a typed array.
	const part = (buffer, offset = 0, size = undefined) => {
		const step = buffer.BYTES_PER_ELEMENT || 1, all = bytesOf(buffer);
		return all.subarray(offset * step, size === undefined ? all.length : (offset + size) * step);
	};
	crypto.randomFillSync = (buffer, offset, size) => {
		randomFillSync(buffer, offset, size);	// checks the arguments
		fill(part(buffer, offset, size));
		return buffer;
	};
	crypto.randomFill = (buffer, ...rest) => {
		const callback = rest.pop();
		if (typeof callback !== 'function')
			return randomFill(buffer, ...rest, callback);
		crypto.randomFillSync(buffer, ...rest);
		return later(callback, buffer);
	};

	const { randomInt } = crypto;
	crypto.randomInt = (min, max, callback) => {
		if (max === undefined || typeof max === 'function')
			[min, max, callback] = [0, min, max];
		if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || max <= min || max - min > 2 ** 48 - 1)
			return randomInt(min, max, callback);	// says what is wrong
		const range = max - min, limit = 2 ** 48 - 2 ** 48 % range;
		let drawn;
		do
			drawn = crypto.randomBytes(6).readUIntBE(0, 6);
		while (drawn >= limit);
		return callback ? later(callback, min + drawn % range) : min + drawn % range;
	};

	crypto.randomUUID = () => {
		const bytes = crypto.randomBytes(16);
		bytes[6] = bytes[6] & 0x0f | 0x40;
		bytes[8] = bytes[8] & 0x3f | 0x80;
		return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
	};

	const web = Object.getPrototypeOf(crypto.webcrypto), { getRandomValues } = web;
	web.getRandomValues = (array) => {	// also what crypto.getRandomValues gives
		getRandomValues.call(crypto.webcrypto, array);	// checks the argument
		fill(bytesOf(array));
		return array;
	};
	web.randomUUID = crypto.randomUUID;
}
